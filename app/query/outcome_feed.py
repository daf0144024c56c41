"""Follows all outcomes, from the end of their topic on or from where a reader has stopped.

Each reader has a consumer of its own, outside any group. A cursor names the next offset of every
partition, so who goes on from one misses nothing and gets nothing twice.
"""

import base64
import binascii
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from app.config.connection import Connection
from app.domain.errors import BrokerUnavailableError, InvalidCursorError, LostOutcomesError
from app.kafka.committed_reader import committed_reader
from app.kafka.topics import TopicSpec

#: How long nothing comes before the reader is told so, and how much it gets at once.
QUIET_MS = 5_000
MAX_OUTCOMES = 500

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Told:
    """An outcome, and the cursor behind it."""

    cursor: str
    members: Mapping[str, object]


class FollowsOutcomes(Protocol):
    """What the web view needs of the feed; tests may bring their own."""

    def follow(self, cursor: str | None) -> AsyncIterator[Sequence[Told]]:
        """Yield outcomes from a cursor on, or from now on.

        Yields nothing once it is known from where on, and at times, if none come.
        """
        ...


class OutcomeFeed:
    """Reads `registration-outcomes`."""

    def __init__(self, connection: Connection, topic: TopicSpec) -> None:
        self._connection = connection
        self._topic = topic

    async def follow(self, cursor: str | None) -> AsyncIterator[Sequence[Told]]:
        """Yield outcomes from a cursor on, or from now on, each partition's in order.

        Raises `InvalidCursorError`, `LostOutcomesError` if retention has removed outcomes that
        were not read, and `BrokerUnavailableError`.
        """
        offsets = None if cursor is None else decoded(cursor, self._topic.partitions)
        places = [TopicPartition(self._topic.name, n) for n in range(self._topic.partitions)]
        try:
            async with committed_reader(self._connection, beyond="none") as consumer:
                consumer.assign(places)
                if offsets is None:
                    ends = await consumer.end_offsets(places)
                    offsets = [ends[place] for place in places]
                for place, offset in zip(places, offsets, strict=True):
                    consumer.seek(place, offset)
                yield []
                while True:
                    yield await self._next(consumer, offsets)
        except OffsetOutOfRangeError:
            raise LostOutcomesError("outcomes that were not read yet are gone") from None
        except KafkaError:
            raise BrokerUnavailableError("no broker tells of outcomes now") from None

    async def _next(self, consumer: AIOKafkaConsumer, offsets: list[int]) -> Sequence[Told]:
        """Return what comes next, and move the offsets on."""
        told = []
        came = await consumer.getmany(timeout_ms=QUIET_MS, max_records=MAX_OUTCOMES)
        for place, records in came.items():
            for record in records:
                offsets[place.partition] = record.offset + 1
                told.append(Told(encoded(offsets), _members(record)))
        return told


def _members(record: Any) -> Mapping[str, object]:
    return {"id": (record.key or b"").decode(), **orjson.loads(record.value)}


def encoded(offsets: Sequence[int]) -> str:
    """Return a cursor: clients may keep it and give it back, nothing else."""
    packed = struct.pack(f">B{len(offsets)}Q", _VERSION, *offsets)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decoded(cursor: str, partitions: int) -> list[int]:
    """Return the offsets of a cursor; partitions that were added since begin at their beginning.

    Raises `InvalidCursorError`.
    """
    try:
        padding = b"=" * (-len(cursor) % 4)
        packed = base64.b64decode(cursor.encode() + padding, altchars=b"-_", validate=True)
        version, *offsets = struct.unpack(f">B{(len(packed) - 1) // 8}Q", packed)
    except (binascii.Error, ValueError, struct.error):
        raise InvalidCursorError("not a cursor of outcomes") from None
    if version != _VERSION or not 0 < len(offsets) <= partitions or max(offsets) >= 2**63:
        raise InvalidCursorError("not a cursor of these outcomes")
    return [*offsets, *[0] * (partitions - len(offsets))]
