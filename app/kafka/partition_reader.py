"""Reads partitions from one offset to another, outside of any consumer group.

It reads as workers do: within bounded memory, and past records that no client can read.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from faust.types import TP

from app.config.connection import Connection
from app.domain.consumed_records import ConsumedRecord
from app.domain.errors import BrokerUnavailableError, LostRecordsError, TopicsError
from app.kafka import fetching
from app.kafka.admin_client import AdminClient
from app.kafka.client_errors import refusal, require_access, unusable
from app.kafka.cluster import Cluster
from app.kafka.protocol import READ_COMMITTED, READ_UNCOMMITTED, TopicId
from app.kafka.topics import ADMIN_TIMEOUT_SECONDS, TopicSpec
from app.system import retries

#: About how much is handed on at once.
MAX_RECORDS = 5_000
MAX_BYTES = 4 * 1024 * 1024

Isolation = Literal["read_committed", "read_uncommitted"]

#: Called with a description of what is read, and the number of offsets.
Advance = Callable[[str, int], None]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Extent:
    """A partition and the offsets to read: from ``start`` to before ``end``."""

    topic: str
    partition: int
    start: int
    end: int

    def __len__(self) -> int:
        return max(self.end - self.start, 0)


#: Yields the records of an extent in pieces, each with the next offset, at an isolation level.
Scan = Callable[[Cluster, Extent, int], AsyncIterator[tuple[int, Sequence[ConsumedRecord]]]]


async def scan_as_workers_do(
    cluster: Cluster, extent: Extent, isolation_level: int
) -> AsyncIterator[tuple[int, Sequence[ConsumedRecord]]]:
    """Yield the records of an extent in pieces, each with the next offset."""
    tp, start, end = TP(extent.topic, extent.partition), extent.start, extent.end
    async for taken in fetching.scan(
        cluster, tp, start, end, MAX_RECORDS, MAX_BYTES, isolation_level
    ):
        yield taken.next, taken.records


class Reader:
    """Reads partitions, one at a time."""

    def __init__(
        self,
        connection: Connection,
        cluster: Cluster,
        isolation: Isolation,
        scan: Scan = scan_as_workers_do,
    ) -> None:
        self._connection = connection
        self._cluster = cluster
        self._is_committed = isolation == "read_committed"
        self._scan_extent = scan
        #: Called as reading advances.
        self.advance: Advance = lambda description, further: None

    async def extents(self, topic: TopicSpec) -> Sequence[Extent]:
        """Return the partitions of a topic as they are now.

        With read_committed, each ends where a transaction is open.
        """
        asked = [TP(topic.name, number) for number in range(topic.partitions)]
        cluster = self._cluster
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            starts = await self._again(asked, lambda: cluster.starts(asked))
            ends = await self._again(
                asked,
                lambda: cluster.stable_ends(asked) if self._is_committed else cluster.ends(asked),
            )
        return [Extent(tp.topic, tp.partition, starts[tp], ends[tp]) for tp in asked]

    def topic_id(self, topic: str) -> TopicId:
        """Return the topic's id. A topic that is made again under the same name has another id."""
        return self._cluster.topic_id(topic)

    async def diverges_at(self, tp: TP, offset: int, epoch: int) -> int | None:
        """Return where a log ends if it lost a record of an epoch before an offset; else None."""

        async def ask() -> int | None:
            with suppress(OffsetOutOfRangeError):  # retention has removed what was before it
                return await fetching.diverges_at(self._cluster, tp, offset, epoch)
            return None

        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            return await self._again([tp], ask)

    async def _again(self, partitions: Sequence[TP], ask: Callable[[], Awaitable[T]]) -> T:
        """Return an answer; ask again while the error may pass."""
        while True:
            try:
                await self._cluster.require_leaders(partitions)
                return await ask()
            except (KafkaError, OSError, TimeoutError) as error:
                await self._recover(error)

    async def _recover(self, error: Exception) -> None:
        """Raise a lasting error. After another one, pause and ask for the leaders."""
        if refusal(self._connection, error) is not None:
            raise error
        await asyncio.sleep(retries.READING.first_seconds)
        try:
            await self._cluster.refresh()
        except (KafkaError, OSError, TimeoutError):
            return  # what is asked next fails again

    async def read(self, extent: Extent) -> AsyncIterator[Sequence[ConsumedRecord]]:
        """Yield the records of a partition in batches.

        Not every offset has a record: compaction and aborted transactions leave gaps, and
        transactions end with a control record. Raises `CorruptBatchError` if a batch is damaged.
        """
        position, moved_at = extent.start, time.monotonic()
        while position < extent.end:
            try:
                rest = replace(extent, start=position)
                await self._cluster.require_leaders([TP(rest.topic, rest.partition)])
                level = READ_COMMITTED if self._is_committed else READ_UNCOMMITTED
                async for following, records in self._scan_extent(self._cluster, rest, level):
                    if following > position:
                        further = min(following, extent.end) - position
                        position, moved_at = following, time.monotonic()
                        self.advance(f"{extent.topic} {extent.partition}", further)
                        yield _below(records, extent.end)
                        # The next records are buffered. Let other tasks run first.
                        await asyncio.sleep(0)
                    elif _is_stalled(moved_at):
                        raise _stalled(extent, position)
            except LostRecordsError:
                raise TopicsError(
                    "the beginning of a topic was removed while it was read"
                ) from None
            except (KafkaError, OSError, TimeoutError) as error:
                if _is_stalled(moved_at):
                    raise _stalled(extent, position) from None
                await self._recover(error)


def _is_stalled(moved_at: float) -> bool:
    return time.monotonic() - moved_at > retries.READING.limit_seconds


def _stalled(extent: Extent, position: int) -> BrokerUnavailableError:
    return BrokerUnavailableError(
        f"topic {extent.topic}, partition {extent.partition}: nothing came from "
        f"offset {position} for {retries.READING.limit_seconds:g} seconds"
    )


def _below(records: Sequence[ConsumedRecord], end: int) -> Sequence[ConsumedRecord]:
    if records and records[-1].offset >= end:
        return [record for record in records if record.offset < end]
    return records


class TopicFollower:
    """Reads topics from their beginning, and then new records."""

    def __init__(self, reading: Reader, topics: Sequence[TopicSpec]) -> None:
        self._reading = reading
        self._topics = topics
        self._read: dict[tuple[str, int], int] = {}

    async def rest(self) -> Sequence[Extent]:
        """Return the committed extents that were not read yet."""
        extents = await self.extents()
        return [replace(each, start=max(each.start, self.next(each))) for each in extents]

    async def extents(self) -> Sequence[Extent]:
        """Return the partitions, as they are now."""
        return [each for spec in self._topics for each in await self._reading.extents(spec)]

    async def left(self) -> int:
        """Return how many committed offsets were not read yet."""
        return sum(map(len, await self.rest()))

    def next(self, extent: Extent) -> int:
        """Return the next offset to read of a partition."""
        return self._read.get((extent.topic, extent.partition), 0)

    async def read(self) -> AsyncIterator[tuple[Extent, Sequence[ConsumedRecord]]]:
        """Yield all committed records that were not read yet, by partition."""
        for extent in await self.rest():
            async for records in self._reading.read(extent):
                yield extent, records
            self._read[extent.topic, extent.partition] = max(extent.start, extent.end)


@asynccontextmanager
async def reader(
    connection: Connection,
    topics: Iterable[TopicSpec],
    isolation: Isolation = "read_committed",
    scan: Scan = scan_as_workers_do,
) -> AsyncIterator[Reader]:
    """Yield a reader after the topics were checked.

    Raises `BrokerUnavailableError` if no broker answers, `KafkaAccessError` if it refuses this
    client, and `TopicsError` if a topic is missing, has another number of partitions, or loses its
    beginning meanwhile.
    """
    wanted = list(topics)
    cluster = Cluster(connection, [topic.name for topic in wanted])
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await _check(connection, wanted)
            await cluster.start()
        yield Reader(connection, cluster, isolation, scan)
    except (TimeoutError, KafkaError) as error:
        raise unusable(connection, error) from None
    finally:
        await cluster.close()


async def _check(connection: Connection, topics: Sequence[TopicSpec]) -> None:
    await require_access(connection)
    admin = AdminClient(**connection.client())
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
