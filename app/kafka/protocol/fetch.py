"""Fetch: the records of partitions. They stay in the buffer of the answer."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from struct import Struct
from typing import NamedTuple

from app.kafka.protocol.calls import Call
from app.kafka.protocol.packing import INT16, PackedRequest, read_tags, read_varint, varint
from app.kafka.protocol.topics import NO_EPOCH, TopicId

_FETCHED = Struct(">ihqqq")
_ABORTED = Struct(">qq")
_DIVERGING = Struct(">iq")
#: replica id, max wait, min bytes, max bytes, isolation, session id and epoch (no session).
_FETCH_HEAD = Struct(">iiiibii")
#: partition, leader epoch, offset, last fetched epoch, log start, max bytes, no tags.
_FETCH_PARTITION = Struct(">iiqiqib")


class Fetched(NamedTuple):
    """What a fetch returned for one partition."""

    topic_id: TopicId
    partition: int
    error_code: int
    high_watermark: int
    last_stable_offset: int
    log_start: int
    #: (producer id, first offset) of each aborted transaction.
    aborted: Sequence[tuple[int, int]]
    data: memoryview
    #: Where the log of the named epoch ends, if it ends before the requested offset.
    diverges_at: int | None


class FetchAnswer(NamedTuple):
    """The answer to a Fetch."""

    error_code: int
    partitions: Sequence[Fetched]

    @classmethod
    def decode(cls, buffer: BytesIO) -> "FetchAnswer":
        """Read version 13; the records stay where they are."""
        data, at = buffer.getbuffer(), buffer.tell() + 4
        (error_code,) = INT16.unpack_from(data, at)
        topics, at = read_varint(data, at + 6)
        found = []
        for _ in range(topics - 1):
            topic_id = bytes(data[at : at + 16])
            partitions, at = read_varint(data, at + 16)
            for _ in range(partitions - 1):
                fetched, at = _read_fetched(topic_id, data, at)
                found.append(fetched)
            _, at = read_tags(data, at)
        return cls(error_code, found)


def _read_fetched(topic_id: TopicId, data: memoryview, at: int) -> tuple[Fetched, int]:
    numbers = _FETCHED.unpack_from(data, at)
    count, at = read_varint(data, at + _FETCHED.size)
    aborted = []
    for _ in range(count - 1):
        aborted.append(_ABORTED.unpack_from(data, at))
        _, at = read_tags(data, at + _ABORTED.size)
    size, at = read_varint(data, at + 4)
    records = data[at : at + max(size - 1, 0)]
    tags, at = read_tags(data, at + max(size - 1, 0))
    diverges_at = None
    if (diverging := tags.get(0)) is not None:
        epoch, end = _DIVERGING.unpack_from(diverging, 0)
        diverges_at = end if epoch >= 0 or end >= 0 else None
    number, error_code, high_watermark, stable_end, log_start = numbers
    return Fetched(
        topic_id,
        number,
        error_code,
        high_watermark,
        stable_end,
        log_start,
        aborted,
        records,
        diverges_at,
    ), at


class Fetch(PackedRequest):
    """Asks a leader for records; partitions are named by topic id."""

    API_KEY = 1
    API_VERSION = 13
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = FetchAnswer


def wanted(partition: int, offset: int, last_epoch: int, max_bytes: int) -> bytes:
    """Return the part of a fetch for one partition; the epoch is that of the record before."""
    return _FETCH_PARTITION.pack(partition, NO_EPOCH, offset, last_epoch, -1, max_bytes, 0)


def fetch(
    wanted: Mapping[TopicId, Sequence[bytes]],
    *,
    isolation_level: int,
    max_wait_ms: int,
    max_bytes: int,
) -> Call:
    """Return a request for records of partitions, by topic id; see `wanted`."""
    parts = [
        _FETCH_HEAD.pack(-1, max_wait_ms, 1, max_bytes, isolation_level, 0, -1),
        varint(len(wanted) + 1),
    ]
    for topic_id, partitions in wanted.items():
        parts += topic_id, varint(len(partitions) + 1), *partitions, b"\0"
    # No forgotten topics, no rack, no tags.
    parts.append(b"\x01\x01\0")
    return Call(Fetch, (b"".join(parts),))
