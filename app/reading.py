"""Reading partitions from one offset to another, in no group."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from app.arrivals import Arrival
from app.connection import Connection
from app.engine.lean import make_lean
from app.errors import BrokerUnavailableError, TopicsError
from app.refusals import require_access, unusable
from app.topics import ADMIN_TIMEOUT_SECONDS, TopicSpec

#: What is handed on at once, and what a fetch brings.
MAX_RECORDS = 5_000
MAX_FETCH_BYTES = 4 * 1024 * 1024
POLL_MS = 500
#: The broker answers one request after the other: where nothing is left, a fetch must not wait.
FETCH_WAIT_MS = 10
#: An open transaction holds readers up; the broker ends one whose owner died after 20 seconds.
STALLED_AFTER_SECONDS = 45

Isolation = Literal["read_committed", "read_uncommitted"]

#: Is told what is read, and how many offsets further that is.
Advance = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Extent:
    """A partition and the offsets to read of it: from ``start`` to before ``end``."""

    topic: str
    partition: int
    start: int
    end: int

    def __len__(self) -> int:
        return max(self.end - self.start, 0)


class Reader:
    """Reads partitions, one at a time."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        #: Is told how reading goes on.
        self.advance: Advance = lambda description, further: None

    async def extents(self, topic: TopicSpec) -> Sequence[Extent]:
        """Return the partitions of a topic, as they are now.

        For who reads what is committed, each ends where a transaction is open.
        """
        asked = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            starts: Mapping[Any, int] = await self._consumer.beginning_offsets(asked)
            ends: Mapping[Any, int] = await self._consumer.end_offsets(asked)
        return [Extent(tp.topic, tp.partition, starts[tp], ends[tp]) for tp in asked]

    async def read(self, extent: Extent) -> AsyncIterator[Sequence[Arrival]]:
        """Yield the records of a partition in batches.

        Not every offset has a record: what compaction and aborted transactions leave are gaps,
        and a partition that was written by transactions ends with a control record.
        """
        tp = TopicPartition(extent.topic, extent.partition)
        self._consumer.assign([tp])
        self._consumer.seek(tp, extent.start)
        position, moved_at = extent.start, time.monotonic()
        while position < extent.end:
            fetched = await self._consumer.getmany(tp, timeout_ms=POLL_MS, max_records=MAX_RECORDS)
            before, position = position, await self._consumer.position(tp)
            if position > before:
                moved_at = time.monotonic()
                self.advance(f"{tp.topic} {tp.partition}", min(position, extent.end) - before)
                yield _below(fetched.get(tp, []), extent.end)
            elif time.monotonic() - moved_at > STALLED_AFTER_SECONDS:
                raise BrokerUnavailableError(
                    f"topic {extent.topic}, partition {extent.partition}: nothing came from "
                    f"offset {position} for {STALLED_AFTER_SECONDS} seconds"
                )
            # What is buffered is returned at once: without this, nothing more would be fetched.
            await asyncio.sleep(0)


def _below(records: Sequence[Any], end: int) -> Sequence[Arrival]:
    if records and records[-1].offset >= end:
        records = [record for record in records if record.offset < end]
    return cast("Sequence[Arrival]", records)


@asynccontextmanager
async def reader(
    connection: Connection, topics: Iterable[TopicSpec], isolation: Isolation = "read_committed"
) -> AsyncIterator[Reader]:
    """Yield a reader, once it is sure that topics exist.

    Raises `BrokerUnavailableError` if no broker answers, `KafkaAccessError` if it refuses
    this client, and `TopicsError` if a topic is missing,
    has another number of partitions, or loses its beginning meanwhile.
    """
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await _check(connection, list(topics))
        async with _consumer(connection, isolation) as consumer:
            yield Reader(consumer)
    except OffsetOutOfRangeError:
        raise TopicsError("the beginning of a topic was removed while it was read") from None
    except (TimeoutError, KafkaError) as error:
        raise unusable(connection, error) from None


async def _check(connection: Connection, topics: Sequence[TopicSpec]) -> None:
    await require_access(connection)
    admin = AIOKafkaAdminClient(**connection.client())
    try:
        await admin.start()
        present = set(await admin.list_topics())
        for topic in topics:
            if topic.name not in present:
                raise TopicsError(f"topic {topic.name} does not exist")
        described = await admin.describe_topics([topic.name for topic in topics]) if topics else []
    finally:
        await admin.close()
    actual = {found["topic"]: len(found["partitions"]) for found in described}
    for topic in topics:
        if actual[topic.name] != topic.partitions:
            raise TopicsError(
                f"PARTITIONS: topic {topic.name} has {actual[topic.name]} partitions and the "
                f"setting is {topic.partitions}"
            )


@asynccontextmanager
async def _consumer(
    connection: Connection, isolation: Isolation
) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **connection.client(),
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=isolation,
        max_partition_fetch_bytes=MAX_FETCH_BYTES,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await consumer.start()
        make_lean(consumer)
        yield consumer
    finally:
        await consumer.stop()
