"""The partitions that this worker owns: each applies its folds in order, a transaction at a time.

A partition is opened (its producer fences the owner before, its store is brought up to the end of
the changelog, the marker says what is applied), applies folds, is settled when a rebalance begins,
and closed when it is lost. What fails is opened again and goes on from the marker.
"""

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from aiokafka.errors import KafkaError
from faust.types import TP
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_exponential_jitter

from app.arrivals import Arrival
from app.connection import Connection
from app.engine.changelog import Advanced, Changelog, StoresRows
from app.engine.folding import MAX_FOLD_RECORDS, Fold
from app.engine.lean import ToWrite
from app.engine.lease import Lease
from app.engine.marker import MARKER_KEY, Marker, why_refused
from app.engine.pace import Pace
from app.engine.transactions import FencedProducer
from app.errors import ApplyError, FencedError, NotWrittenError, StoreError
from app.metrics import APPLIED, TRANSACTION_SECONDS, TRANSACTIONS_FAILED
from app.records import Outgoing

log = structlog.get_logger(__name__)

#: A partition takes another fold while fewer than this many wait: one is applied, one is at hand.
MAX_WAITING_FOLDS = 2
#: A batch is cut so that what comes of it fits the broker's limits, compressed as it may have come.
MAX_BATCH_BYTES = 1024 * 1024
#: A batch is decided in slices, as long as the pace allows; the smallest has so many records.
MIN_SLICE_RECORDS = 50

#: Trouble that lasts longer than this ends the worker; its supervisor starts it again.
GIVE_UP_AFTER_SECONDS = 120.0
MAX_BACK_OFF_SECONDS = 5.0
#: How long a rebalance waits for a transaction that is under way.
SETTLE_SECONDS = 3.0


#: Is told the offset at which a record was written, before the transaction goes on.
Noted = Callable[[int], None]


@dataclass(slots=True)
class Changes:
    """What comes of a batch: rows of the table (None deletes) and records for other topics."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    outgoing: defaultdict[tuple[str, int], list[ToWrite]] = field(
        default_factory=lambda: defaultdict(list)
    )
    #: Records that are sent first, because something else in the transaction names their offsets.
    noted: list[tuple[Outgoing, Noted]] = field(default_factory=list)
    #: Offsets of source records of which nothing more will come.
    settled: list[int] = field(default_factory=list)
    #: The first record that cannot be decided before another source has gone on.
    halted_at: int | None = None
    #: Called once all of it is committed.
    on_commit: list[Callable[[], None]] = field(default_factory=list)

    def send(self, record: Outgoing) -> None:
        """Add a record for another topic."""
        self.outgoing[record.topic, record.partition].append(
            (record.timestamp_ms, record.key, record.value, list(record.headers))
        )


#: A table's name and the number of a partition of it.
Key = tuple[str, int]

#: Adds to changes what comes of some records of a partition. It may read the store, which does not
#: have the changes yet, and writes nothing.
Decide = Callable[[int, Sequence[Arrival], Changes], None]


#: Adds to changes what time has made superfluous in a partition, by where its sources begin.
Tidy = Callable[[int, Mapping[str, int], Changes], None]


@dataclass(frozen=True, slots=True)
class FoldedTable:
    """A table that is written by transactions, and the topics whose records they apply."""

    name: str
    connection: Connection
    #: Those that are applied first come first.
    sources: tuple[str, ...]
    changelog: Changelog
    store: StoresRows
    #: Under what its rows are decided; rows that were decided under something else are refused.
    rules: str = ""


async def _never_sealed() -> None:
    """Be sure, where nothing is ever sealed."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a partition needs of the worker around it."""

    app_id: str
    #: Held while a batch is decided: so the loop turns between two batches of two partitions.
    turn: asyncio.Lock
    #: Says when a batch may begin, while others need the loop.
    pace: Pace
    #: Until when this worker surely owns the partition.
    lease: Lease
    #: Tells whether this worker is a member of its group still, as the broker sees it.
    is_member: Callable[[], Awaitable[bool]]
    on_fenced: Callable[["OwnedPartition"], None]
    on_failure: Callable[[Exception], Awaitable[None]]
    #: Asks the consumer to read a source again from an offset.
    read_again: Callable[[TP, int], Awaitable[None]]
    tidy: Tidy
    #: Raises `NotWrittenError` while it is not sure that a sealed table goes on here after all.
    require_standing: Callable[[], Awaitable[None]] = _never_sealed
    #: Where sources end for now: nothing further is applied.
    ends: Mapping[TP, int] = field(default_factory=dict)


class OwnedPartition:
    """One partition of a table and its sources."""

    def __init__(self, table: FoldedTable, number: int, around: Surroundings) -> None:
        self.table = table
        self.number = number
        self._around = around
        self._producer = FencedProducer(table.connection, f"{around.app_id}-{table.name}-{number}")
        self._marker = Marker.first()
        self._is_sound = False
        self._folds: dict[str, deque[tuple[Fold, Decide]]] = {t: deque() for t in table.sources}
        #: Sources whose next record waits for another source.
        self._halted: set[str] = set()
        self._is_untidy = False
        self._something_to_do = asyncio.Event()
        self._applying = asyncio.Lock()
        self._work: asyncio.Task[None] | None = None
        self._waiters: defaultdict[int, list[asyncio.Future[None]]] = defaultdict(list)
        self._slice = MAX_FOLD_RECORDS
        #: Why what was tried last has failed; None while all is well.
        self.trouble: str | None = None

    # -- what others ask

    @property
    def key(self) -> Key:
        """The table's name and the number."""
        return self.table.name, self.number

    @property
    def is_open(self) -> bool:
        """Whether the store holds everything up to the marker."""
        return self._is_sound

    @property
    def answers(self) -> bool:
        """Whether lookups may be answered: it is open, and no rebalance may have moved it."""
        return self._is_sound and self._work is not None

    @property
    def complete_at(self) -> float | None:
        """When the store surely held all that was committed, in monotonic seconds, if ever."""
        if self.answers:
            self._note_complete()
        return self.table.changelog.complete_at.get(self.number)

    def _note_complete(self) -> None:
        # Nobody else has written anything while the lease held.
        self.table.changelog.note_complete(self.number, self._around.lease.confirmed_at)

    def has_room(self, topic: str) -> bool:
        """Return whether another fold of a source topic may come."""
        return len(self._folds[topic]) < MAX_WAITING_FOLDS

    def applied(self, topic: str) -> int:
        """Return the next offset to apply of a source topic; 0 if none was applied yet."""
        return self._marker.next.get(topic, 0)

    def knows(self, topic: str) -> bool:
        """Return whether it is known what is applied of a source topic."""
        return topic in self._marker.next

    def sources(self) -> Iterator[TP]:
        """Yield the partitions whose records are applied here."""
        return (TP(topic, self.number) for topic in self.table.sources)

    # -- its life

    async def open(self, advanced: Advanced = lambda rows, left: None) -> None:
        """Fence the owner before, bring the store up to date, learn what is applied.

        A table that was sealed goes on only if what it was sealed for was given up. Raises
        `ApplyError` if records that are not applied yet are gone from their log.
        """
        await self._producer.start()
        recovered = await self.table.changelog.recover(self.number, self.table.sources, advanced)
        self._marker = recovered.marker or Marker.first(self.table.rules)
        if self._marker.is_sealed:
            await self._around.require_standing()
            self._marker = self._marker.sealed(is_sealed=False)
        if (why := why_refused(self._marker.rules, self.table.rules)) is not None:
            raise ApplyError(f"the table {self.table.name} {why}; see docs/operations.md")
        for topic, log_start in recovered.log_starts.items():
            self._begin_at(topic, log_start)
        self._is_sound = True

    def _begin_at(self, topic: str, log_start: int) -> None:
        # Never reset: what is gone without having been applied is for people to decide about.
        if not self.knows(topic):
            self._marker = self._marker.after(topic, log_start)
        elif self.applied(topic) < log_start:
            raise ApplyError(
                f"{topic}, partition {self.number}: records from {self.applied(topic)} to "
                f"{log_start - 1} were deleted before they were applied; see docs/operations.md"
            )

    def begin(self) -> None:
        """Apply what is submitted from now on."""
        if self._work is None:
            self._work = asyncio.create_task(
                self._apply_all(), name=f"{self.table.name}-{self.number}"
            )

    def submit(self, fold: Fold, decide: Decide) -> None:
        """Apply a fold when those before it are applied."""
        if self._work is not None:
            self._folds[fold.tp.topic].append((fold, decide))
            self._something_to_do.set()

    def go_on(self) -> None:
        """Look again whether there is something to apply, as a source ends elsewhere now."""
        self._halted.clear()
        self._something_to_do.set()

    def tidy(self) -> None:
        """Remove what time has made superfluous, in a transaction between two others."""
        self._is_untidy = True
        self._something_to_do.set()

    async def caught_up(self) -> None:
        """Wait until the store has what is committed: a commit comes before its store's write."""
        async with self._applying:
            pass

    async def settled(self, offset: int) -> None:
        """Wait until nothing more will come of a source record, or the partition is closed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[offset].append(waiter)
        try:
            await waiter
        finally:
            waiters = self._waiters[offset]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[offset]

    async def settle(self) -> None:
        """Finish the transaction that is under way, if it ends soon; drop what waits."""
        if self.answers:
            self._note_complete()
        self._drop_waiting()
        self._wake(list(self._waiters))
        work, self._work = self._work, None
        if work is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self.caught_up()
        work.cancel()
        await asyncio.wait([work])

    async def close(self) -> None:
        """Give up everything that this worker holds of the partition."""
        await self.settle()
        self._is_sound = False
        await self._producer.close()
        self.table.store.close([self.number])

    def _drop_waiting(self) -> None:
        for folds in self._folds.values():
            folds.clear()
        self._halted.clear()

    def _wake(self, offsets: Iterable[int]) -> None:
        for offset in offsets:
            for waiter in self._waiters.get(offset, ()):
                if not waiter.done():
                    waiter.set_result(None)

    # -- its work

    async def _apply_all(self) -> None:
        while True:
            job = await self._next_job()
            await self._around.pace.turn()
            try:
                async with self._applying:
                    await self._do_or_try_again(job)
            except FencedError:
                self._is_sound = False
                self._around.on_fenced(self)
                return
            except Exception as error:
                self._is_sound = False
                await self._around.on_failure(error)
                return

    async def _next_job(self) -> Callable[[], Awaitable[None]]:
        while True:
            if self._is_untidy:
                return self._tidy
            for topic, folds in self._folds.items():
                if folds and topic not in self._halted:
                    return partial(self._apply_first, folds)
            self._something_to_do.clear()
            await self._something_to_do.wait()

    async def _do_or_try_again(self, job: Callable[[], Awaitable[None]]) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((NotWrittenError, KafkaError, StoreError)),
            wait=wait_exponential_jitter(multiplier=0.1, max=MAX_BACK_OFF_SECONDS),
            stop=stop_after_delay(GIVE_UP_AFTER_SECONDS),
            before_sleep=partial(self.note_trouble, "a batch is tried again"),
            reraise=True,
        ):
            with attempt:
                await self._reopen_if_unsound()
                await job()
        self.trouble = None

    def note_trouble(self, what: str, state: RetryCallState) -> None:
        """Take note, and tell, of why an attempt has failed before another one is made."""
        cause = state.outcome and state.outcome.exception()
        self.trouble = str(cause) or type(cause).__name__
        log.warning(
            what,
            table=self.table.name,
            partition=self.number,
            attempt=state.attempt_number,
            cause=f"{type(cause).__name__}: {cause}",
        )

    async def _reopen_if_unsound(self) -> None:
        if self._is_sound:
            return
        # Opening fences whoever owns the partition: after a long pause that may be another worker.
        if not await self._around.is_member():
            raise NotWrittenError("the broker does not confirm that this worker is in its group")
        await self.open()

    async def _apply_first(self, folds: deque[tuple[Fold, Decide]]) -> None:
        if not folds:
            return  # dropped meanwhile
        fold, decide = folds[0]
        topic = fold.tp.topic
        if fold.start > self.applied(topic):
            # A fold is missing. Nothing is skipped: it is read again.
            folds.clear()
            await self._around.read_again(fold.tp, self.applied(topic))
            return
        await self._apply(fold, decide)
        # Whatever was halted may go on now that another source has.
        self._halted.clear()
        if self.applied(topic) < fold.next:
            self._halted.add(topic)
        elif folds and folds[0][0] is fold:
            folds.popleft()

    async def _apply(self, fold: Fold, decide: Decide) -> None:
        """Apply a fold, or its beginning up to where it halts."""
        topic, applied = fold.tp.topic, self.applied(fold.tp.topic)
        records = fold.records
        end = min(fold.next, self._around.ends.get(fold.tp, fold.next))
        if fold.start < applied or end < fold.next:
            records = [record for record in records if applied <= record.offset < end]
        while self.applied(topic) < end:
            batch = records[: self._fitting(records)]
            records = records[len(batch) :]
            following = records[0].offset if records else end
            changes = await self._decide(batch, decide)
            if changes.halted_at is not None:
                following = changes.halted_at
            if not batch:
                # Only control records: they need no transaction of their own, the next one tells.
                self._marker = self._marker.after(topic, following)
            elif following > batch[0].offset:
                await self._transact(changes, self._marker.after(topic, following))
                APPLIED.labels(topic).inc(len(batch))
            if changes.halted_at is not None:
                return

    def _fitting(self, records: Sequence[Arrival]) -> int:
        """Return how many of the records make one batch."""
        size = 0
        for count, record in enumerate(records[:MAX_FOLD_RECORDS]):
            size += len(record.value or b"")
            if size > MAX_BATCH_BYTES:
                return max(count, 1)
        return MAX_FOLD_RECORDS

    async def _tidy(self) -> None:
        changes = Changes()
        starts = await self.table.changelog.log_starts(self.number, self.table.sources)
        self._around.tidy(self.number, starts, changes)
        # The marker at least is written: it lets the changelog begin a new segment in time.
        await self._transact(changes, self._marker)
        self._is_untidy = False

    async def _transact(self, changes: Changes, marker: Marker) -> None:
        began = time.perf_counter()
        try:
            if changes.noted:
                offsets = await self._producer.send([record for record, _ in changes.noted])
                for (_, noted), offset in zip(changes.noted, offsets, strict=True):
                    noted(offset)
            changes.rows[MARKER_KEY] = marker.encode()
            offset = await self._producer.commit(
                self.table.changelog.topic, self.number, changes.rows, changes.outgoing
            )
            self.table.store.apply(self.number, changes.rows, offset)
        except BaseException:
            # Cancelled or failed: what of it is committed only the changelog can tell.
            if self.answers:
                self._note_complete()
            self._is_sound = False
            TRANSACTIONS_FAILED.labels(self.table.name).inc()
            raise
        self._marker = marker
        TRANSACTION_SECONDS.labels(self.table.name).observe(time.perf_counter() - began)
        for committed in changes.on_commit:
            committed()
        if self._waiters:
            self._wake(self._waiters.keys() & changes.settled)

    async def _decide(self, batch: Sequence[Arrival], decide: Decide) -> Changes:
        """Decide a batch slice by slice: between two of them the loop does all that is due."""
        changes = Changes()
        async with self._around.turn:
            while batch and changes.halted_at is None:
                part, batch = batch[: self._slice], batch[self._slice :]
                began = time.perf_counter()
                with self._around.pace.spending():
                    decide(self.number, part, changes)
                self._adapt(len(part), time.perf_counter() - began)
                await asyncio.sleep(0)
        return changes

    def _adapt(self, records: int, seconds: float) -> None:
        """Take as many records next time as fit the time that a slice may take."""
        if records >= MIN_SLICE_RECORDS:
            fitting = int(records * self._around.pace.slice_seconds / max(seconds, 1e-6))
            self._slice = min(max(fitting, MIN_SLICE_RECORDS), MAX_FOLD_RECORDS)


class Partitions:
    """The partitions that this worker owns, by table and number."""

    def __init__(self) -> None:
        #: How often what is of no use any more is removed from topics and files.
        self.tidy_every_seconds = 3600.0
        self.pace = Pace()
        self.lease = Lease()
        self._tables: dict[str, FoldedTable] = {}
        self._tidy: dict[str, Tidy] = {}
        self._owned: dict[Key, OwnedPartition] = {}
        #: Raises `NotWrittenError` while a sealed table may not go on.
        self.require_standing: Callable[[], Awaitable[None]] = _never_sealed
        #: Where sources end for now: while the registry is repartitioned.
        self.ends: dict[TP, int] = {}
        #: The partitions that this worker keeps copies of, by table.
        self.standbys: dict[str, Sequence[int]] = {}

    # -- declaration

    def add(self, table: FoldedTable) -> None:
        """Let transactions write a table; all its source topics are folded."""
        for topic in table.sources:
            self._tables[topic] = table

    def keep_tidy(self, table: str, tidy: Tidy) -> None:
        """Let something be removed from a table now and then."""
        self._tidy[table] = tidy

    def tidy_of(self, table: str) -> Tidy:
        """Return what is removed from a table now and then."""
        return self._tidy.get(table, lambda partition, log_starts, changes: None)

    def is_folded(self, topic: str) -> bool:
        """Return whether a topic's records come as folds."""
        return topic in self._tables

    @property
    def tables(self) -> Mapping[str, FoldedTable]:
        """The tables, by name."""
        return {table.name: table for table in self._tables.values()}

    # -- ownership

    def get(self, table: str, number: int) -> OwnedPartition | None:
        """Return a partition that this worker owns, or None."""
        return self._owned.get((table, number))

    def owns(self, table: str, number: int) -> bool:
        """Return whether this worker can answer for a partition, and surely nobody else."""
        partition = self.get(table, number)
        return partition is not None and partition.answers and self.lease.holds

    def complete_at(self, table: str, number: int) -> float | None:
        """Return when the rows here were all that were committed, in monotonic seconds, if ever.

        They may be those of an owner, of one that was, or of a standby.
        """
        partition = self.get(table, number)
        if partition is not None:
            return partition.complete_at
        return self.tables[table].changelog.complete_at.get(number)

    def own(self, partition: OwnedPartition) -> None:
        """Take a partition among those owned."""
        self._owned[partition.key] = partition

    def owned(self) -> list[OwnedPartition]:
        """Return the partitions that this worker owns."""
        return list(self._owned.values())

    async def give_up(self, partitions: Iterable[OwnedPartition]) -> None:
        """Close partitions."""
        given_up = list(partitions)
        for partition in given_up:
            self._owned.pop(partition.key, None)
        await asyncio.gather(*(partition.close() for partition in given_up))

    def end_at(self, ends: Mapping[TP, int]) -> None:
        """Apply sources up to their ends, and others without."""
        if ends != self.ends:
            self.ends.clear()
            self.ends.update(ends)
            for partition in self.owned():
                partition.go_on()

    async def settle(self) -> None:
        """Finish what is under way in all partitions."""
        await asyncio.gather(*(partition.settle() for partition in self.owned()))

    # -- folds

    def at(self, source: TP) -> OwnedPartition | None:
        """Return the partition that applies a source partition's records, if it is owned."""
        table = self._tables.get(source.topic)
        return None if table is None else self._owned.get((table.name, source.partition))

    def has_room(self, source: TP) -> bool:
        """Return whether a source partition may be read."""
        partition = self.at(source)
        return partition is None or partition.has_room(source.topic)

    def submit(self, fold: Fold, decide: Decide) -> None:
        """Hand a fold to its partition; it never waits. Folds of lost partitions are dropped."""
        partition = self.at(fold.tp)
        if partition is not None:
            partition.submit(fold, decide)

    def applied(self) -> dict[TP, int]:
        """Return the next offset to apply of each source partition that is known."""
        return {
            source: partition.applied(source.topic)
            for partition in self.owned()
            for source in partition.sources()
            if partition.knows(source.topic)
        }
