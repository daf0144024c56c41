"""Cycles: the agents decide the records that wait, and one transaction commits the results.

A cycle begins as soon as a record waits, or a moment later under load; it is bounded in records,
bytes and time. It writes rows, markers, claims, verdicts, outcomes, dead letters and moved records
together, and commits the offset of every source of every partition that it writes: by that, the
broker refuses a worker whose generation is over. What it sends to a partition that this worker
applies, too, and that has nothing else before it, is applied in the same transaction
(`Cycles._go_on`). After the commit, rows go into the stores, and who waits for a record is woken.
What fails in any other way is read again from the markers.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog
from aiokafka.errors import KafkaError
from faust.types import TP
from tenacity import RetryCallState

from app.domain.errors import (
    ApplyError,
    DecisionError,
    FencedError,
    NotWrittenError,
    StoreError,
    StuckError,
    TooLargeError,
)
from app.engine.batches import Abandoned, Batch, SliceSize
from app.engine.partitions import Key, Opening, OwnedPartition, Partitions
from app.engine.shares import Share, Shares
from app.kafka.fetching import Fetcher, Taken
from app.kafka.transactions import Member, Sendings, TransactionalProducer
from app.system import retries
from app.telemetry.metrics import APPLIED, TRANSACTION_SECONDS, TRANSACTIONS_FAILED

log = structlog.get_logger(__name__)

#: What a cycle takes of one topic at most: all partitions together.
MAX_RECORDS = 16_000
MAX_BYTES = 4 * 1024 * 1024
#: And no more than about so many slices of deciding.
MAX_SLICES = 120

#: Cycles begin further apart the more records a second are applied, up to this: each costs broker
#: and worker the more, the more partitions it touches, whatever it writes there.
SPACING_SECONDS = 0.020
#: From so many records a second on, and fully from so many.
EASY_RATE, BUSY_RATE = 5.0, 50.0
#: A record waits no longer than this for a cycle to begin.
MAX_LINGER_SECONDS = 0.010
#: How much the last second counts for the rate.
RATE_SECONDS = 0.5

#: How often what a transaction sends is applied in it: a claim, and then the verdict on it.
MAX_HOPS = 2
#: How long the end of the transaction before is waited for, to be read: what is sent next can be
#: applied at once only if it is known what stands before it.
END_SECONDS = 0.005

#: How long nothing comes before offsets of control records are committed by themselves.
IDLE_SECONDS = 1.0

#: How long an agent may take for a batch; it never should.
AGENT_SECONDS = 60.0
#: How long a rebalance waits for a cycle that is under way.
SETTLE_SECONDS = 3.0
#: So many cycles fail one after the other before each partition is tried by itself.
SPLIT_FAILURES = 3

TRANSIENT = (NotWrittenError, StoreError, KafkaError, OSError, TimeoutError)


class ApplyThrottle:
    """When the next cycle may begin."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = 0.0
        self._rate = 0.0

    def begin(self, records: int) -> None:
        """Take note that a cycle begins, with so many records."""
        now = self._now()
        passed = min(max(now - self._began, 1e-3), 2 * RATE_SECONDS)
        share = min(passed / RATE_SECONDS, 1.0)
        self._rate += (records / passed - self._rate) * share
        self._began = now

    def rest(self) -> float:
        """Return for how long records that have just come should wait for others."""
        strain = (self._rate - EASY_RATE) / (BUSY_RATE - EASY_RATE)
        spacing = SPACING_SECONDS * min(max(strain, 0.0), 1.0)
        return min(max(self._began + spacing - self._now(), 0.0), MAX_LINGER_SECONDS)


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whom a cycle tells what it cannot mend."""

    #: The broker refuses what this worker knows of its membership.
    on_fenced: Callable[[Member, FencedError], None]
    on_failure: Callable[[Exception], Awaitable[None]]


class Cycles:
    """Applies what waits, a cycle at a time, as long as this worker owns partitions."""

    def __init__(
        self,
        partitions: Partitions,
        fetcher: Fetcher,
        producer: TransactionalProducer,
        opening: Opening,
        callbacks: Callbacks,
    ) -> None:
        self._partitions = partitions
        self._fetcher = fetcher
        self._producer = producer
        self._opening = opening
        self._callbacks = callbacks
        #: What Faust hands to the agents.
        self.batches: asyncio.Queue[Batch] = asyncio.Queue()
        self.throttle = ApplyThrottle()
        self._size = SliceSize()
        #: How many cycles have failed one after the other.
        self._failures = 0
        self._member: Member | None = None
        self._work: asyncio.Task[None] | None = None
        self._committing = asyncio.Lock()
        #: Partitions that are applied by themselves, and how many records at once.
        self._alone: dict[Key, int] = {}
        self._rests_until: dict[Key, float] = {}
        #: Partitions of which control records were passed since their last transaction.
        self._passed: set[Key] = set()
        #: Partitions of sources to which the last transaction has sent, and where that ends.
        self._sent_to: dict[TP, int] = {}
        #: Where the sources begin, for partitions of which superfluous rows are to be removed.
        self._untidy: dict[Key, Mapping[str, int]] = {}
        partitions.on_new_ends = fetcher.has_records.set

    # -- its life

    def begin(self, member: Member) -> None:
        """Apply what comes, as a member of a generation."""
        self._member = member
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run(), name="cycles")

    def read(self, owned: OwnedPartition) -> None:
        """Read the sources of a partition from what is applied on."""
        for tp in owned.sources():
            self._fetcher.assign(tp, owned.applied(tp.topic), owned.marker.epoch(tp.topic))
        owned.begin()

    async def settle(self) -> None:
        """Finish the cycle that is under way, if it ends soon; begin no other one."""
        work, self._work = self._work, None
        self._pause()
        if work is None:
            return
        with contextlib.suppress(TimeoutError):
            # What the agents are still deciding would not end: Faust has stopped them.
            async with asyncio.timeout(SETTLE_SECONDS), self._committing:
                pass
        work.cancel()
        await asyncio.wait([work])
        # A cycle that has failed meanwhile may have opened its partitions again.
        self._pause()
        while not self.batches.empty():
            self.batches.get_nowait()
        # Of hops that are not committed: others would wait behind what was sent.
        await self._producer.end_open()

    def _pause(self) -> None:
        for owned in self._partitions.owned():
            owned.pause()
            self._fetcher.drop(owned.sources())

    async def tidy(self) -> None:
        """Remove what time has made superfluous, each partition in a cycle of its own."""
        for owned in self._partitions.owned():
            starts = await self._opening.reading.cluster.starts(list(owned.sources()))
            self._untidy[owned.key] = {tp.topic: start for tp, start in starts.items()}
        self._fetcher.has_records.set()

    # -- cycles

    async def _run(self) -> None:
        try:
            while True:
                await self._something_to_do()
                await self._do()
        except FencedError as error:
            log.warning("the group has moved on without this worker", cause=str(error))
            for owned in self._partitions.owned():
                owned.distrust()
            if self._member is not None:
                self._callbacks.on_fenced(self._member, error)
        except Exception as error:
            for owned in self._partitions.owned():
                owned.distrust()
            await self._callbacks.on_failure(error)

    async def _something_to_do(self) -> None:
        while not (self._untidy or self._ready()):
            self._fetcher.has_records.clear()
            waits = bool(self._rests_until or self._passed)
            try:
                async with asyncio.timeout(IDLE_SECONDS if waits else None):
                    await self._fetcher.has_records.wait()
            except TimeoutError:
                if self._passed:
                    return
        if (rest := self.throttle.rest()) > 0:
            await asyncio.sleep(rest)
        await self._end_is_read()

    async def _end_is_read(self) -> None:
        """Wait until the last transaction's end is read where it has sent to this worker itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while any(self._fetcher.is_at_end(*each) for each in self._sent_to.items()):
                    self._fetcher.has_records.clear()
                    await self._fetcher.has_records.wait()
        self._sent_to.clear()

    def _ready(self) -> dict[str, list[tuple[OwnedPartition, TP]]]:
        """Return the partitions that have something to be applied, by topic."""
        ready: dict[str, list[tuple[OwnedPartition, TP]]] = {}
        for tp in self._fetcher.ready():
            owned = self._partitions.at(tp)
            if owned is not None and owned.answers and not self._rests(owned, tp):
                ready.setdefault(tp.topic, []).append((owned, tp))
        return ready

    def _rests(self, owned: OwnedPartition, tp: TP) -> bool:
        end = self._partitions.ends.get(tp)
        if end is not None and owned.applied(tp.topic) >= end:
            return True
        return self._rests_until.get(owned.key, 0.0) > time.monotonic()

    async def _do(self) -> None:
        shares = self._tidied() or self._take() or self._told()
        began = time.perf_counter()
        try:
            await self._apply(shares)
        except TRANSIENT as error:
            self._failures += 1
            if isinstance(error, TooLargeError) or self._failures >= SPLIT_FAILURES:
                self._take_smaller(shares, error)
            await self._begin_again(shares, error)
        except DecisionError as error:
            if not self._take_one_by_one(shares, error):
                _distrust(shares)
                raise
            self._failures += 1
            await self._begin_again(shares, error)
        except BaseException:
            _distrust(shares)
            raise
        else:
            self._failures = 0
            self._grow(shares)
            seconds = time.perf_counter() - began
            for name in {share.owned.table.name for share in shares}:
                TRANSACTION_SECONDS.labels(name).observe(seconds)

    def _take(self) -> Shares:
        """Take records of all partitions that have some, each topic's evenly."""
        ready = self._ready()
        alone = next(
            (key for of in ready.values() for o, _ in of if (key := o.key) in self._alone), None
        )
        shares = Shares()
        records, at_most = 0, min(self._size.records * MAX_SLICES, MAX_RECORDS)
        for topic in self._partitions.sources:
            places = [each for each in ready.get(topic, ()) if alone in (None, each[0].key)]
            for owned, tp in places:
                most = max(self._alone.get(owned.key, at_most // len(places)), 1)
                taken = self._below_end(tp, self._fetcher.take(tp, most, MAX_BYTES // len(places)))
                records += len(taken.records)
                shares.of(owned).add(topic, taken)
        if records:
            self.throttle.begin(records)
        return shares

    def _below_end(self, tp: TP, taken: Taken) -> Taken:
        """Return what is to be applied: while a registry is repartitioned, sources end."""
        end = self._partitions.ends.get(tp)
        if end is None or taken.next <= end:
            return taken
        self._fetcher.assign(tp, end, taken.epoch)
        records = [record for record in taken.records if record.offset < end]
        return Taken(records, end, taken.epoch)

    def _tidied(self) -> Shares:
        shares = Shares()
        while self._untidy and not shares:
            key, starts = self._untidy.popitem()
            owned = self._partitions.get(*key)
            if owned is not None and owned.answers:
                # The marker at least is written: it lets the changelog begin a new segment in time.
                changes = shares.of(owned).changes
                self._partitions.tidy_of(key[0])(key[1], starts, changes)
        return shares

    def _told(self) -> Shares:
        """Return the partitions whose offsets the group does not know: control records count."""
        shares = Shares()
        passed, self._passed = self._passed, set()
        for key in passed:
            owned = self._partitions.get(*key)
            if owned is not None and owned.answers:
                shares.of(owned)
        return shares

    async def _apply(self, shares: Shares) -> None:
        await self._decide(shares)
        await self._go_on(shares)
        if shares.written:
            async with self._committing:
                await self._commit(shares)
        for share in shares:
            if not share.is_written:
                share.owned.move_on(share.marker)
                self._passed.add(share.owned.key)

    # -- deciding

    async def _decide(self, shares: Shares) -> None:
        """Let the agents decide what they were not given yet, one topic after the other."""
        for topic in self._partitions.sources:
            if parts := shares.undecided(topic):
                batch = Batch(topic, parts, self._size)
                self.batches.put_nowait(batch)
                await self._decided(batch)

    @staticmethod
    async def _decided(batch: Batch) -> None:
        try:
            async with asyncio.timeout(AGENT_SECONDS):
                await batch.decided
        except TimeoutError:
            raise StuckError(f"{_told(batch)}: the agent does not decide") from None
        except (*TRANSIENT, ApplyError, Abandoned):
            raise
        except Exception as error:
            raise DecisionError(
                f"{_told(batch)}: deciding fails ({type(error).__name__}); see docs/operations.md",
                (batch.topic, batch.deciding.partition),
            ) from error

    # -- what is sent to this worker itself

    async def _go_on(self, shares: Shares) -> None:
        """Send what partitions of this worker apply next, and apply it in this transaction.

        That is as if it had been read: nobody else applies these partitions, all that stands
        before it is decided, and it counts only if this transaction is committed.
        """
        if noted := shares.noted():
            shares.note(await self._producer.send(self._member, noted))
        for _ in range(MAX_HOPS):
            ahead = shares.take_ahead(partial(self._is_next, shares))
            if ahead:
                await self._send_ahead(shares, ahead)
            # Also if nothing was sent: something may have been taken.
            await self._decide(shares)
            if not ahead:
                return

    async def _send_ahead(self, shares: Shares, ahead: Sendings) -> None:
        owners = {tp: owned for tp in ahead if (owned := self._partitions.at(tp)) is not None}
        later = [*shares.likely(), *(owned.changelog for owned in owners.values())]
        spans = await self._producer.send(self._member, ahead, later)
        for tp, owned in owners.items():
            if shares.add_sent(owned, tp, spans[tp], ahead[tp]):
                self._fetcher.pass_to(tp, spans[tp].stop)
                self._sent_to[tp] = spans[tp].stop

    def _is_next(self, shares: Shares, tp: TP) -> bool:
        """Return whether what is sent to a partition now would be the next that is applied here.

        What has come meanwhile is taken as well: it stands before that.
        """
        owned = self._partitions.at(tp)
        if owned is None or not owned.answers or self._alone or tp in self._partitions.ends:
            return False
        if self._fetcher.has(tp):
            taken = self._fetcher.take(tp, self._size.records, MAX_BYTES)
            shares.of(owned).add(tp.topic, taken)
        return self._fetcher.is_at_end(tp, shares.next_of(owned, tp.topic))

    # -- committing

    async def _commit(self, shares: Shares) -> None:
        written = shares.written
        asked_at = self._partitions.lease.now()
        async with contextlib.AsyncExitStack() as applying:
            for share in written:
                await applying.enter_async_context(share.owned.applying)
            spans = await self._producer.commit(self._member, shares.sendings(), shares.offsets())
            self._partitions.lease.renew(asked_at)
            failed = [error for share in written if (error := self._store(share, spans))]
        for share in written:
            for committed in share.changes.on_commit:
                committed()
            for topic, count in share.counts.items():
                APPLIED.labels(topic).inc(count)
        if failed:
            raise failed[0]

    def _store(self, share: Share, spans: Mapping[TP, range]) -> StoreError | None:
        """Write to a store what is committed; return why it does not take it."""
        owned = share.owned
        try:
            owned.apply(share.changes, share.marker, spans[owned.changelog][-1])
        except StoreError as error:
            return error
        share.is_applied = True
        self._passed.discard(owned.key)
        return None

    # -- what fails

    async def _begin_again(self, shares: Shares, error: Exception) -> None:
        """Go on from the markers: what of a cycle is committed only the changelogs can tell."""
        left = [share for share in shares if not share.is_applied]
        for share in left:
            share.owned.distrust()
            self._fetcher.drop(share.owned.sources())
            TRANSACTIONS_FAILED.labels(share.owned.table.name).inc()
            share.owned.trouble = str(error) or type(error).__name__
        log.warning("a cycle is tried again", cause=f"{type(error).__name__}: {error}")
        if not any(share.owned.key in self._rests_until for share in left):
            await asyncio.sleep(retries.CYCLE.pause_seconds(self._failures))
        async for attempt in retries.OPENING.attempts(
            TRANSIENT, stop=disk_stays_bad, before_sleep=partial(_note_trouble, left)
        ):
            with attempt:
                if not self._producer.is_started:
                    await self._producer.start()
                for share in left:
                    if not share.owned.is_open:
                        await share.owned.open(self._opening)
                        self.read(share.owned)

    def _take_smaller(self, shares: Shares, error: Exception) -> None:
        """Let partitions be applied by themselves, so that one of them does not hold up others."""
        for share in shares:
            key, records = share.owned.key, share.most_records
            if len(shares) > 1:
                self._alone[key] = records
            elif isinstance(error, TooLargeError) and records > 1:
                self._alone[key] = records // 2
            else:
                self._alone[key] = records
                log.critical(
                    "a partition rests: what comes of its next records cannot be written",
                    table=share.owned.table.name,
                    partition=share.owned.number,
                    next_records=share.begins_at,
                    cause=str(error),
                )
                self._rests_until[key] = time.monotonic() + retries.BLOCKED.first_seconds

    def _take_one_by_one(self, shares: Shares, error: DecisionError) -> bool:
        """Let the records of the partition that fails be decided one by one, if they were not.

        So what is before the record that fails is applied, and that record is known. It is read
        then, and not only sent: nobody finds the place of one that was never committed.
        """
        failing = self._partitions.at(TP(*error.place))
        for share in shares:
            if share.owned is failing and (share.most_records > 1 or share.has_sent):
                self._alone[share.owned.key] = 1
                return True
        return False

    def _grow(self, shares: Shares) -> None:
        """Let a partition that was applied by itself take more, and then go with the others."""
        for share in shares:
            self._rests_until.pop(share.owned.key, None)
            most = self._alone.pop(share.owned.key, MAX_RECORDS)
            if most < MAX_RECORDS:
                self._alone[share.owned.key] = most * 2


def _distrust(shares: Shares) -> None:
    for share in shares:
        share.owned.distrust()


def _told(batch: Batch) -> str:
    """Return which records are decided."""
    partition, records, _ = batch.deciding
    first, last = records[0].offset, records[-1].offset
    which = f"record {first}" if first == last else f"records {first} to {last}"
    return f"{batch.topic}, partition {partition}: {which}"


def disk_stays_bad(state: RetryCallState) -> bool:
    """Return whether a worker should end: brokers come back, a full disk is for people to see."""
    error = state.outcome and state.outcome.exception()
    seconds = state.seconds_since_start or 0.0
    # Time-outs and lost connections are OSErrors, too.
    of_disk = isinstance(error, StoreError | OSError) and not isinstance(
        error, TimeoutError | ConnectionError
    )
    return of_disk and seconds > retries.OPENING.limit_seconds


def _note_trouble(shares: Iterable[Share], state: RetryCallState) -> None:
    cause = state.outcome and state.outcome.exception()
    for share in shares:
        share.owned.trouble = str(cause) or type(cause).__name__
    log.warning(
        "partitions are opened again",
        attempt=state.attempt_number,
        cause=f"{type(cause).__name__}: {cause}",
    )
