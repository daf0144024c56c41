"""Reading topics from beginning to end, committed records only, in no group."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from app.engine.lean import make_lean
from app.errors import BrokerUnavailableError, TopicsError
from app.registration import Arrival
from app.topics import ADMIN_TIMEOUT_SECONDS, TopicSpec
from app.verify.progress import Advance

#: What is folded at once, and what a fetch brings.
MAX_RECORDS = 5_000
MAX_FETCH_BYTES = 4 * 1024 * 1024
POLL_MS = 500
#: An open transaction holds readers up; the broker ends one whose owner died after 20 seconds.
STALLED_AFTER_SECONDS = 45


@dataclass(frozen=True, slots=True)
class Extent:
    """A partition and the offsets to read of it: from ``start`` to before ``end``."""

    topic: str
    partition: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


class Reader:
    """Reads partitions, one at a time."""

    def __init__(self, committed: AIOKafkaConsumer, everything: AIOKafkaConsumer) -> None:
        self._committed = committed
        self._everything = everything
        #: Is told how reading goes on.
        self.advance: Advance = lambda description, further: None

    async def committed_extents(self, topic: TopicSpec) -> Sequence[Extent]:
        """Return the partitions of a topic up to where no transaction is open."""
        return await self._extents(topic, self._committed)

    async def extents(self, topic: TopicSpec) -> Sequence[Extent]:
        """Return the partitions of a topic up to the last record, of open transactions too.

        A commit reaches the topics of a transaction one after the other. What is committed in one
        is written in all, and so below the ends of those that are asked for later.
        """
        return await self._extents(topic, self._everything)

    async def _extents(self, topic: TopicSpec, consumer: AIOKafkaConsumer) -> Sequence[Extent]:
        asked = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            starts: Mapping[Any, int] = await consumer.beginning_offsets(asked)
            ends: Mapping[Any, int] = await consumer.end_offsets(asked)
        return [Extent(tp.topic, tp.partition, starts[tp], ends[tp]) for tp in asked]

    async def read(self, extent: Extent) -> AsyncIterator[Sequence[Arrival]]:
        """Yield the records of a partition in batches.

        Not every offset has a record: what compaction and aborted transactions leave are gaps,
        and a partition that was written by transactions ends with a control record.
        """
        tp = TopicPartition(extent.topic, extent.partition)
        self._committed.assign([tp])
        self._committed.seek(tp, extent.start)
        position, moved_at = extent.start, time.monotonic()
        while position < extent.end:
            fetched = await self._committed.getmany(tp, timeout_ms=POLL_MS, max_records=MAX_RECORDS)
            before, position = position, await self._committed.position(tp)
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
async def reader(brokers: str, topics: Iterable[TopicSpec]) -> AsyncIterator[Reader]:
    """Yield a reader of topics, all of which exist.

    Raises `BrokerUnavailableError` if no broker answers, and `TopicsError` if a topic is missing,
    has another number of partitions, or loses its beginning meanwhile.
    """
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await _check(brokers, list(topics))
        async with (
            _consumer(brokers, "read_committed") as committed,
            _consumer(brokers, "read_uncommitted") as everything,
        ):
            yield Reader(committed, everything)
    except OffsetOutOfRangeError:
        raise TopicsError(
            "the beginning of a topic was removed while it was read: verify again"
        ) from None
    except (TimeoutError, KafkaError) as error:
        raise BrokerUnavailableError(
            f"KAFKA_BROKERS: no usable answer from {brokers} ({type(error).__name__})"
        ) from None


async def _check(brokers: str, topics: Sequence[TopicSpec]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    try:
        await admin.start()
        present = set(await admin.list_topics())
        for topic in topics:
            if topic.name not in present:
                raise TopicsError(f"topic {topic.name} does not exist: nothing can be verified")
        described = await admin.describe_topics([topic.name for topic in topics])
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
async def _consumer(brokers: str, isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=brokers,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=isolation,
        max_partition_fetch_bytes=MAX_FETCH_BYTES,
    )
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await consumer.start()
        make_lean(consumer)
        yield consumer
    finally:
        await consumer.stop()
