"""Batches of records as a broker keeps them, for tests of what reads them."""

from collections.abc import Iterable

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

TIMESTAMP_MS = 1_700_000_000_123
#: The key of a control record: version 0; 0 is an abort, 1 a commit.
ABORT, COMMIT = b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"


def batch(
    base: int,
    values: Iterable[bytes | None],
    *,
    epoch: int = 0,
    producer: int = -1,
    control: bytes | None = None,
    compression: int = 0,
) -> bytes:
    """Return a batch; with a producer it is transactional, with a control key it is a marker."""
    builder = DefaultRecordBatchBuilder(
        2, compression, int(producer >= 0), producer, 0, 0, 64 * 1024 * 1024
    )
    for number, value in enumerate(values):
        key = b"k" if control is None else control
        builder.append(number, TIMESTAMP_MS, key, value, [("h", b"1")])
    made = bytearray(builder.build())
    made[0:8] = base.to_bytes(8, "big")
    made[12:16] = epoch.to_bytes(4, "big", signed=True)
    if control is not None:
        made[22] |= 0x20  # the attributes are two bytes, behind the checksum
        made[17:21] = calc_crc32c(bytes(made[21:])).to_bytes(4, "big")
    return bytes(made)


def marker(base: int, producer: int, control: bytes = COMMIT, *, epoch: int = 0) -> bytes:
    """Return the control record that ends a transaction."""
    return batch(
        base, [b"\x00\x00\x00\x00\x00\x00"], epoch=epoch, producer=producer, control=control
    )
