"""Produce: one batch for each partition, acknowledged by all in-sync replicas."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from struct import Struct
from typing import NamedTuple

from faust.types import TP

from app.kafka.protocol.calls import Call
from app.kafka.protocol.packing import INT16, INT32, PackedRequest, pairs_by_topic, string

#: Sequence numbers begin again at 0 behind the largest number of 32 bits.
SEQUENCES = 2**31

_PRODUCED = Struct(">ihqqq")
_PRODUCE_HEAD = Struct(">hi")


class Produced(NamedTuple):
    """The broker's answer for the batch of one partition."""

    tp: TP
    error_code: int
    base_offset: int


class ProduceAnswer(NamedTuple):
    """The answer to a Produce."""

    partitions: Sequence[Produced]

    @classmethod
    def decode(cls, buffer: BytesIO) -> "ProduceAnswer":
        """Read version 7."""
        data, at = buffer.getbuffer(), buffer.tell()
        (topics,) = INT32.unpack_from(data, at)
        at += 4
        found = []
        for _ in range(topics):
            (size,) = INT16.unpack_from(data, at)
            topic = str(data[at + 2 : at + 2 + size], "utf-8")
            at += 2 + size
            (partitions,) = INT32.unpack_from(data, at)
            at += 4
            for _ in range(partitions):
                number, error_code, offset, _, _ = _PRODUCED.unpack_from(data, at)
                found.append(Produced(TP(topic, number), error_code, offset))
                at += _PRODUCED.size
        return cls(found)


class Produce(PackedRequest):
    """Writes batches to the partitions of one leader."""

    API_KEY = 0
    API_VERSION = 7
    RESPONSE_TYPE = ProduceAnswer


def produce(
    transactional_id: str | None, timeout_ms: int, batches: Iterable[tuple[TP, bytes | bytearray]]
) -> Call:
    """Return a request that writes one batch to each partition, acks=all."""
    grouped = pairs_by_topic(batches)
    parts: list[bytes | bytearray] = [
        INT16.pack(-1) if transactional_id is None else string(transactional_id),
        _PRODUCE_HEAD.pack(-1, timeout_ms),
        INT32.pack(len(grouped)),
    ]
    for topic, partitions in grouped.items():
        parts += string(topic), INT32.pack(len(partitions))
        for number, batch in partitions:
            parts += INT32.pack(number), INT32.pack(len(batch)), batch
    return Call(Produce, (b"".join(parts),))
