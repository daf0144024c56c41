"""Record batches as a broker sends and takes them, made by hand where no client would make them."""

import asyncio
from collections.abc import Iterable, Sequence

from aiokafka.errors import for_code
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c as crc32c
from backports import zstd
from faust.types import TP

from app.config.settings import Settings
from app.kafka import protocol
from app.kafka.cluster import Cluster

#: Where attributes, the last offset delta, the greatest timestamp, the number of records and the
#: records of a batch stand.
ATTRIBUTES_AT, LAST_DELTA_AT, GREATEST_AT, COUNT_AT, RECORDS_AT = 21, 23, 35, 57, 61

#: A record: offset, timestamp, key, value and headers.
Row = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]

#: A header name that `with_bad_name` replaces by one that is not UTF-8, and of the same length.
NAME_TO_SPOIL, BAD_NAME = "BAD-me", b"\xff\xfename"


def batch(
    rows: Sequence[Row], codec: int = 0, producer: int = -1, flags: int = 0, base: int = 0
) -> bytes:
    """Return rows as a batch, as a broker sends it; their offsets are absolute."""
    transactional = int(producer >= 0)
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer, 0, 0, 1 << 30)
    for offset, timestamp, key, value, headers in rows:
        builder.append(offset - base, timestamp, key, value, headers)
    made = builder.build()
    made[0:8] = base.to_bytes(8, "big")
    made[ATTRIBUTES_AT + 1] |= flags
    return sealed(made)


def sealed(made: bytearray) -> bytes:
    """Return a batch that was changed, with the length and checksum that it has now."""
    made[8:12] = (len(made) - 12).to_bytes(4, "big")
    made[17:21] = crc32c(bytes(made[ATTRIBUTES_AT:])).to_bytes(4, "big")
    return bytes(made)


def with_bad_name(rows: Sequence[Row], base: int = 0) -> bytes:
    """Return a batch in which the header name ``BAD-me`` is not UTF-8."""
    made = batch(rows, base=base)
    assert made.count(NAME_TO_SPOIL.encode()) == 1
    return sealed(bytearray(made.replace(NAME_TO_SPOIL.encode(), BAD_NAME)))


def send(brokers: str, topic: str, partition: int, batch: bytes) -> int:
    """Write a batch as it is; return the offset of its first record."""

    async def write() -> int:
        cluster = Cluster(Settings(kafka_brokers=brokers).kafka, [topic])
        try:
            await cluster.start()
            tp = TP(topic, partition)
            call = protocol.produce(None, 15_000, [(tp, batch)])
            answer = await cluster.send(cluster.leader(tp), call)
        finally:
            await cluster.close()
        ((_, error_code, offset),) = answer.partitions
        if error_code:
            raise for_code(error_code)(topic)
        return int(offset)

    return asyncio.run(write())


def bomb(values: Iterable[bytes], timestamp: int) -> bytes:
    """Return values as one batch, packed with zstd: they are never held together."""
    packing = zstd.ZstdCompressor()
    packed = bytearray()
    made = bytearray()
    count = 0
    for number, value in enumerate(values):
        one = bytearray(batch([(number, timestamp, None, value, [])]))
        made = made or one[:RECORDS_AT]
        packed += packing.compress(one[RECORDS_AT:])
        count += 1
    packed += packing.flush()
    made[ATTRIBUTES_AT + 1] |= DefaultRecordBatch.CODEC_ZSTD
    made[LAST_DELTA_AT : LAST_DELTA_AT + 4] = (count - 1).to_bytes(4, "big")
    made[COUNT_AT : COUNT_AT + 4] = count.to_bytes(4, "big")
    return sealed(made + packed)
