"""A changelog and its store: checks that they belong together, and restores the store.

Owners do this once, behind the barrier that keeps earlier owners out; standbys follow without end.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog
from faust.types import TP

from app.config.connection import Connection
from app.domain.errors import LostChangelogError
from app.engine.barrier import Barrier
from app.engine.marker import MARKER_KEY, Marker
from app.kafka.cluster import Cluster
from app.kafka.fetching import Fetcher, Taken, scan
from app.kafka.transactions import Rows
from app.system.clocks import now
from app.telemetry.metrics import RECOVERED_ROWS

log = structlog.get_logger(__name__)

#: What is written at once: some milliseconds of work, so that the worker stays answering.
MAX_RECORDS = 2_000
MAX_BYTES = 4 * 1024 * 1024
#: So many records of a changelog are loaded in bulk, if the store has none of them yet. For fewer
#: it costs more to open the store twice.
BULK_RECORDS = 20_000
#: A standby has nothing to hurry for.
FOLLOW_WAIT_MS = 500


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

    def bulk_load(self, partition: int) -> AbstractAsyncContextManager[None]:
        """Apply many rows to an empty store faster; nothing may be read meanwhile."""

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


def why_rebuild(store: StoreState, changelog: LogState) -> str | None:
    """Return why a store cannot go on from where it is, or None if it can."""
    if store.offset is None:
        return None
    mine, theirs = store.marker, changelog.marker
    reasons = {
        "it is ahead of its changelog": store.offset >= changelog.end,
        "its changelog begins after it": store.offset + 1 < changelog.begin,
        "its changelog is another one": (mine and mine.log) != (theirs and theirs.log),
        "it was idle for so long that it may have missed deletions": store.too_old,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def is_fuller(store: StoreState, changelog: LogState) -> bool:
    """Return whether a store has what its changelog lost: from there it cannot be rebuilt."""
    mine, theirs = store.marker, changelog.marker
    if mine is None or not mine.next:
        return False
    if theirs is None:
        return True
    # Who sealed a changelog has copied its rows to another one; a restored one is what shall be.
    return not (theirs.is_sealed or theirs.replaces == mine.log or theirs.covers(mine))


@dataclass(frozen=True, slots=True)
class Reading:
    """How changelogs are read: by connections of their own, behind the barrier."""

    cluster: Cluster
    barrier: Barrier


class Changelog:
    """The changelog of one table."""

    def __init__(self, topic: str, store: StoresRows) -> None:
        self.topic = topic
        self._store = store
        #: When the store of a partition surely held all that was committed, by `clocks.now`.
        self.complete_at: dict[int, float] = {}

    def note_complete(self, partition: int, at: float) -> None:
        """Note that the store of a partition held all that was committed at a moment."""
        self.complete_at[partition] = max(at, self.complete_at.get(partition, at))

    # -- an owner's

    async def recover(
        self, reading: Reading, partition: int, sources: Iterable[str], advanced: Advanced
    ) -> Marker | None:
        """Bring the store of a partition up to the end of the log; return its marker.

        An earlier owner can commit nothing more then.
        """
        tp = TP(self.topic, partition)
        end = await reading.barrier.end_of(tp, [TP(source, partition) for source in sources])
        began = now()
        start = await self._begin(reading.cluster, partition, end)
        async with self._bulk_load_if_new(partition, end - start):
            async for taken in scan(reading.cluster, tp, start, end, MAX_RECORDS, MAX_BYTES):
                self._apply(partition, taken)
                RECOVERED_ROWS.labels(self.topic).inc(len(taken.records))
                advanced(len(taken.records), max(end - taken.next, 0))
                await asyncio.sleep(0)
        self.note_complete(partition, began)
        return self.marker(partition)

    def _bulk_load_if_new(self, partition: int, records: int) -> AbstractAsyncContextManager[None]:
        # What a store has may be read, as a copy, while the rest is applied.
        if records < BULK_RECORDS or self._store.offset(partition) is not None:
            return nullcontext()
        return self._store.bulk_load(partition)

    def marker(self, partition: int) -> Marker | None:
        """Return the marker in the store of a partition."""
        stored = self._store.read(partition, MARKER_KEY)
        return None if stored is None else Marker.decode(stored)

    # -- a standby's

    async def follow(self, connection: Connection, partitions: Iterable[int]) -> None:
        """Keep the stores of partitions up to date, until cancelled."""
        cluster = Cluster(connection, [self.topic])
        failures: list[Exception] = []
        fetcher = Fetcher(cluster, failures.append, FOLLOW_WAIT_MS)
        try:
            await cluster.start()
            followed = [TP(self.topic, number) for number in partitions]
            for tp in followed:
                # Not the stable end: a commit is answered before its markers are written, so a
                # worker that has just been the owner would find its store ahead of that.
                end = (await cluster.ends([tp]))[tp]
                fetcher.assign(tp, await self._begin(cluster, tp.partition, end))
            fetcher.start()
            while not failures:
                await self._follow_some(fetcher, followed)
            raise failures[0]
        finally:
            await fetcher.stop()
            await cluster.close()

    async def _follow_some(self, fetcher: Fetcher, followed: Iterable[TP]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FOLLOW_WAIT_MS / 1000):
                await fetcher.has_records.wait()
        fetcher.has_records.clear()
        while ready := fetcher.ready():
            for tp in ready:
                self._apply(tp.partition, fetcher.take(tp, MAX_RECORDS, MAX_BYTES))
                await asyncio.sleep(0)
        for tp in followed:
            if (complete_at := fetcher.complete_at(tp)) is not None:
                self.note_complete(tp.partition, complete_at)

    # -- both

    async def _begin(self, cluster: Cluster, partition: int, end: int) -> int:
        """Open the store; return from where on it must be brought up to the end."""
        tp = TP(self.topic, partition)
        begin = (await cluster.starts([tp]))[tp]
        too_old = self._store.is_too_old(partition)
        self._store.open(partition)
        offset = self._store.offset(partition)
        if offset is None:
            return begin
        store = StoreState(offset, self.marker(partition), too_old)
        changelog = LogState(begin, end, await newest_marker(cluster, tp, begin, end))
        if (why := why_rebuild(store, changelog)) is None:
            return offset + 1
        if is_fuller(store, changelog):
            raise LostChangelogError(
                f"{self.topic}, partition {partition}: the store on this machine has more than its "
                f"changelog ({why}): the changelog was deleted, or lost its end; see "
                "docs/operations.md"
            )
        log.warning("a store is rebuilt from its changelog", partition=partition, because=why)
        self.complete_at.pop(partition, None)
        self._store.destroy(partition)
        self._store.open(partition)
        return begin

    def _apply(self, partition: int, taken: Taken) -> None:
        rows = {record.key or b"": record.value for record in taken.records}
        # Behind the last record there may be control records: they are read as well.
        self._store.apply(partition, rows, taken.next - 1)


async def newest_marker(cluster: Cluster, tp: TP, begin: int, end: int) -> Marker | None:
    """Return the newest marker of a changelog: of each transaction it is the last record.

    What follows it are control records, as many as there were transactions without records.
    """
    back = 2
    while begin < end:
        start = max(end - back, begin)
        newest = None
        async for taken in scan(cluster, tp, start, end, MAX_RECORDS, MAX_BYTES):
            rows = {record.key: record.value for record in taken.records}
            newest = rows.get(MARKER_KEY, newest)
        if newest is not None:
            return Marker.decode(newest)
        if start == begin:
            break
        back *= 8
    return None
