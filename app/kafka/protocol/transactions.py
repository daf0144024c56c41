"""The steps of a transaction: partitions and offsets take part in it, and it ends."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from struct import Struct
from typing import NamedTuple

from faust.types import TP

from app.kafka.protocol.calls import Call
from app.kafka.protocol.packing import (
    INT16,
    INT32,
    PackedRequest,
    by_topic,
    compact_string,
    pairs_by_topic,
    read_tags,
    read_varint,
    string,
    varint,
)

_NUMBER_AND_ERROR = Struct(">ih")
#: The error of partitions that were not tried, because another partition failed.
_NOT_ATTEMPTED = 55
_PRODUCER = Struct(">qh")
#: partition, offset, no leader epoch, no metadata, no tags.
_OFFSET = Struct(">iqibb")


class ProducerIdentity(NamedTuple):
    """How a broker identifies a producer."""

    id: int
    epoch: int


class ErrorAnswer(NamedTuple):
    """An answer of which only the error is needed."""

    error_code: int

    @classmethod
    def decode(cls, buffer: BytesIO) -> "ErrorAnswer":
        """Read what is behind the throttle time."""
        return cls(*INT16.unpack_from(buffer.getbuffer(), buffer.tell() + 4))


class PartitionErrorsAnswer(ErrorAnswer):
    """An answer with an error for each partition. One error is kept."""

    @classmethod
    def decode(cls, buffer: BytesIO) -> "PartitionErrorsAnswer":
        """Read topics and partitions; prefer an error that names the cause."""
        data, at = buffer.getbuffer(), buffer.tell() + 4
        (topics,) = INT32.unpack_from(data, at)
        at += 4
        codes = set()
        for _ in range(topics):
            (size,) = INT16.unpack_from(data, at)
            (partitions,) = INT32.unpack_from(data, at + 2 + size)
            at += 6 + size
            for _ in range(partitions):
                codes.add(_NUMBER_AND_ERROR.unpack_from(data, at)[1])
                at += _NUMBER_AND_ERROR.size
        return cls(_worst(codes))


class CompactErrorsAnswer(ErrorAnswer):
    """The same in the newer encoding."""

    @classmethod
    def decode(cls, buffer: BytesIO) -> "CompactErrorsAnswer":
        """Read topics and partitions; prefer an error that names the cause."""
        data = buffer.getbuffer()
        topics, at = read_varint(data, buffer.tell() + 4)
        codes = set()
        for _ in range(topics - 1):
            size, at = read_varint(data, at)
            partitions, at = read_varint(data, at + size - 1)
            for _ in range(partitions - 1):
                codes.add(_NUMBER_AND_ERROR.unpack_from(data, at)[1])
                _, at = read_tags(data, at + _NUMBER_AND_ERROR.size)
            _, at = read_tags(data, at)
        return cls(_worst(codes))


def _worst(codes: set[int]) -> int:
    return max(codes - {0, _NOT_ATTEMPTED}, default=max(codes, default=0))


class AddPartitionsToTxn(PackedRequest):
    """Lets partitions take part in a transaction."""

    API_KEY = 24
    API_VERSION = 0
    RESPONSE_TYPE = PartitionErrorsAnswer


class AddOffsetsToTxn(PackedRequest):
    """Lets the offsets of a group take part in a transaction."""

    API_KEY = 25
    API_VERSION = 0
    RESPONSE_TYPE = ErrorAnswer


class EndTxn(PackedRequest):
    """Commits or aborts a transaction."""

    API_KEY = 26
    API_VERSION = 0
    RESPONSE_TYPE = ErrorAnswer


class TxnOffsetCommit(PackedRequest):
    """Commits offsets in a transaction. Since version 3 it names the generation of the group."""

    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = CompactErrorsAnswer


def add_partitions(
    transactional_id: str, producer: ProducerIdentity, partitions: Iterable[TP]
) -> Call:
    """Return a request to let partitions take part in a transaction."""
    grouped = by_topic(partitions)
    parts = [string(transactional_id), _PRODUCER.pack(*producer), INT32.pack(len(grouped))]
    for topic, numbers in grouped:
        parts += string(topic), INT32.pack(len(numbers)), *map(INT32.pack, numbers)
    return Call(AddPartitionsToTxn, (b"".join(parts),))


def add_offsets(transactional_id: str, producer: ProducerIdentity, group: str) -> Call:
    """Return a request to let offsets of a group take part in a transaction."""
    packed = string(transactional_id) + _PRODUCER.pack(*producer) + string(group)
    return Call(AddOffsetsToTxn, (packed,))


def commit_offsets(
    transactional_id: str,
    producer: ProducerIdentity,
    group: str,
    member: tuple[int, str, str | None],
    offsets: Mapping[TP, int],
) -> Call:
    """Return a request to commit offsets in a transaction, as a member of a generation.

    ``member``: generation, member id, instance id.
    """
    generation, member_id, instance_id = member
    grouped = pairs_by_topic(offsets.items())
    parts = [
        compact_string(transactional_id),
        compact_string(group),
        _PRODUCER.pack(*producer),
        INT32.pack(generation),
        compact_string(member_id),
        compact_string(instance_id),
        varint(len(grouped) + 1),
    ]
    for topic, partitions in grouped.items():
        parts += compact_string(topic), varint(len(partitions) + 1)
        parts += [_OFFSET.pack(number, offset, -1, 1, 0) for number, offset in partitions]
        parts.append(b"\0")
    parts.append(b"\0")
    return Call(TxnOffsetCommit, (b"".join(parts),))


def end_transaction(transactional_id: str, producer: ProducerIdentity, *, is_commit: bool) -> Call:
    """Return a request to end a transaction."""
    packed = string(transactional_id) + _PRODUCER.pack(*producer) + bytes((is_commit,))
    return Call(EndTxn, (packed,))
