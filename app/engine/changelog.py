"""A changelog and a store: whether they belong together, and how the store is brought up to date.

Owners do this once, after they have fenced the owner before; standbys follow without end. Both read
with a consumer of their own, which belongs to no group: only owners and standbys know what to read.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from app.connection import Connection
from app.engine.lean import make_lean
from app.engine.marker import MARKER_KEY, Marker
from app.engine.transactions import Rows
from app.metrics import RECOVERED_ROWS

log = structlog.get_logger(__name__)

#: What is read and written at once: some milliseconds of work, so that the worker stays answering.
MAX_RECORDS = 2_000
MAX_FETCH_BYTES = 4 * 1024 * 1024
POLL_MS = 100
#: A standby has nothing to hurry for.
FOLLOW_POLL_MS = 1_000


#: Is told how many rows were just written to a store, and how many records are left to read.
Advanced = Callable[[int, int], None]


class StoresRows(Protocol):
    """What the engine needs of a table's store."""

    def open(self, partition: int) -> None:
        """Open a partition's database, which may be open already."""

    def close(self, partitions: Iterable[int]) -> None:
        """Close databases, so that another process may open them."""

    def close_others(self, partitions: Iterable[int]) -> None:
        """Close all databases but these."""

    def destroy(self, partition: int) -> None:
        """Delete a partition's rows on this machine."""

    def read(self, partition: int, key: bytes) -> bytes | None:
        """Return the row under a key."""

    def offset(self, partition: int) -> int | None:
        """Return the changelog offset up to which (inclusive) the store holds everything."""

    def is_too_old(self, partition: int) -> bool:
        """Return whether the store was idle for so long that deletions may have passed it by."""

    def apply(self, partition: int, rows: Rows, changelog_offset: int) -> None:
        """Write rows (None deletes) and offset, atomically."""

    def tidy(self) -> None:
        """Let what was deleted leave the files."""

    def size_bytes(self) -> int:
        """Return the size of the files of all open partitions."""


@dataclass(frozen=True, slots=True)
class LogState:
    """A changelog partition: where it begins and ends, and the newest marker in it."""

    begin: int
    end: int
    marker: Marker | None


@dataclass(frozen=True, slots=True)
class StoreState:
    """A store: the offset up to which it holds everything, its marker, whether it is too old."""

    offset: int | None
    marker: Marker | None
    too_old: bool = False


@dataclass(frozen=True, slots=True)
class Recovered:
    """A store that is up to date: its marker if it has one, where the log of each source begins."""

    marker: Marker | None
    log_starts: Mapping[str, int]


def why_rebuild(store: StoreState, changelog: LogState) -> str | None:
    """Return why a store cannot go on from where it is, or None if it can."""
    if store.offset is None:
        return None
    mine, theirs = store.marker, changelog.marker
    reasons = {
        "it is ahead of its changelog": store.offset >= changelog.end,
        "its changelog begins after it": store.offset + 1 < changelog.begin,
        "its changelog is another one": not (mine and theirs and mine.log == theirs.log),
        "it was idle for so long that it may have missed deletions": store.too_old,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class Changelog:
    """The changelog of one table."""

    def __init__(self, connection: Connection, topic: str, store: StoresRows) -> None:
        self.topic = topic
        self._connection = connection
        self._store = store
        #: When the store of a partition surely held all that was committed, in monotonic seconds.
        self.complete_at: dict[int, float] = {}

    def note_complete(self, partition: int, at: float) -> None:
        """Note that the store of a partition held all that was committed at a moment."""
        self.complete_at[partition] = max(at, self.complete_at.get(partition, at))

    async def recover(
        self, partition: int, sources: Iterable[str], advanced: Advanced
    ) -> Recovered:
        """Bring the store of a partition up to the end of the log."""
        async with self._consumer([partition]) as consumer:
            began = monotonic()
            end = await self._begin(consumer, partition)
            tp = TopicPartition(self.topic, partition)
            while (position := await consumer.position(tp)) < end:
                rows = await self._write_some(consumer, POLL_MS)
                advanced(rows, max(end - position - rows, 0))
                RECOVERED_ROWS.labels(self.topic).inc(rows)
                await asyncio.sleep(0)
            self.note_complete(partition, began)
            starts = await _log_starts(consumer, partition, sources)
        stored = self._store.read(partition, MARKER_KEY)
        return Recovered(None if stored is None else Marker.decode(stored), starts)

    async def log_starts(self, partition: int, sources: Iterable[str]) -> Mapping[str, int]:
        """Return where the log of each source topic begins."""
        async with self._consumer([partition]) as consumer:
            return await _log_starts(consumer, partition, sources)

    async def follow(self, partitions: Iterable[int]) -> None:
        """Keep the stores of partitions up to date, until cancelled."""
        async with self._consumer(list(partitions)) as consumer:
            for tp in consumer.assignment():
                await self._begin(consumer, tp.partition)
            while True:
                await self._write_some(consumer, FOLLOW_POLL_MS)
                for tp in consumer.assignment():
                    await self._note_if_complete(consumer, tp)

    async def _note_if_complete(self, consumer: AIOKafkaConsumer, tp: TopicPartition) -> None:
        # What a fetch told of the log's end, and when; None before the first one.
        end, told_ms = consumer.last_stable_offset(tp), consumer.last_poll_timestamp(tp)
        if end is not None and told_ms is not None and await consumer.position(tp) >= end:
            self.note_complete(tp.partition, monotonic() - max(time() - told_ms / 1000, 0))

    @asynccontextmanager
    async def _consumer(self, partitions: list[int]) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            **self._connection.client(),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=MAX_FETCH_BYTES,
        )
        try:
            await consumer.start()
            make_lean(consumer)
            consumer.assign([TopicPartition(self.topic, number) for number in partitions])
            yield consumer
        finally:
            await consumer.stop()

    async def _begin(self, consumer: AIOKafkaConsumer, partition: int) -> int:
        """Open the store and seek to what it lacks; return where the log ends now."""
        changelog = await self._state(consumer, partition)
        too_old = self._store.is_too_old(partition)
        self._store.open(partition)
        why = why_rebuild(self._stored(partition, too_old), changelog)
        if why is not None:
            log.warning("a store is rebuilt from its changelog", partition=partition, because=why)
            self.complete_at.pop(partition, None)
            self._store.destroy(partition)
            self._store.open(partition)
        offset = self._store.offset(partition)
        start = changelog.begin if offset is None else offset + 1
        consumer.seek(TopicPartition(self.topic, partition), start)
        return changelog.end

    def _stored(self, partition: int, too_old: bool) -> StoreState:
        marker = self._store.read(partition, MARKER_KEY)
        return StoreState(
            self._store.offset(partition),
            None if marker is None else Marker.decode(marker),
            too_old,
        )

    async def _state(self, consumer: AIOKafkaConsumer, partition: int) -> LogState:
        tp = TopicPartition(self.topic, partition)
        begin = (await consumer.beginning_offsets([tp]))[tp]
        # Of a consumer that reads what is committed, this is the last stable offset.
        end = (await consumer.end_offsets([tp]))[tp]
        return LogState(begin, end, await _newest_marker(consumer, tp, begin, end))

    async def _write_some(self, consumer: AIOKafkaConsumer, timeout_ms: int) -> int:
        """Write what there is to read now; return how many records that were."""
        fetched = await consumer.getmany(timeout_ms=timeout_ms, max_records=MAX_RECORDS)
        for tp, records in fetched.items():
            rows = {record.key: record.value for record in records}
            # Behind the last record there may be control records: they are read as well.
            position = await consumer.position(tp)
            self._store.apply(tp.partition, rows, position - 1)
        return sum(map(len, fetched.values()))


async def _log_starts(
    consumer: AIOKafkaConsumer, partition: int, sources: Iterable[str]
) -> Mapping[str, int]:
    asked = [TopicPartition(topic, partition) for topic in sources]
    starts = await consumer.beginning_offsets(asked)
    return {tp.topic: start for tp, start in starts.items()}


async def _newest_marker(
    consumer: AIOKafkaConsumer, tp: TopicPartition, begin: int, end: int
) -> Marker | None:
    """Return the newest marker of a changelog: of each transaction it is the last record.

    What follows it are control records, as many as there were transactions without records.
    """
    back = 2
    while begin < end:
        start = max(end - back, begin)
        found = await _read(consumer, tp, start, end)
        if MARKER_KEY in found:
            return Marker.decode(found[MARKER_KEY])
        if start == begin:
            break
        back *= 8
    return None


async def _read(
    consumer: AIOKafkaConsumer, tp: TopicPartition, start: int, end: int
) -> Mapping[bytes, Any]:
    consumer.seek(tp, start)
    rows: dict[bytes, Any] = {}
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(tp, timeout_ms=POLL_MS)).values():
            rows.update((record.key, record.value) for record in records)
    return rows
