"""Rebalances: closes partitions, opens new ones, and follows standbys.

It replaces Faust's recovery (`TableManager.recovery`). Partitions that stay continue at once. A new
partition continues when its own store is up to date. It does not wait for others.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import structlog
from aiokafka.errors import KafkaError
from faust.tables.manager import TableManager as FaustTableManager
from faust.types import TP, AppT
from mode import Service
from tenacity import AsyncRetrying, RetryCallState

from app.config.connection import Connection
from app.domain.errors import ApplyError, DecisionError, FencedError, RegistryError, ReplacedError
from app.engine.barrier import Barrier, end_abandoned
from app.engine.batches import Batch
from app.engine.changelog import Reading
from app.engine.consumer import Consumer
from app.engine.cycles import TRANSIENT, Callbacks, Cycles, disk_stays_bad
from app.engine.partitions import (
    Key,
    Opening,
    OwnedPartition,
    Partitions,
    never_sealed,
    not_read_again,
)
from app.kafka.cluster import Cluster
from app.kafka.fetching import Fetcher
from app.kafka.transactional_ids import worker_id
from app.kafka.transactions import COMPRESSIONS, Member, TransactionalProducer
from app.system import retries
from app.telemetry.metrics import RECOVERY_SECONDS

log = structlog.get_logger(__name__)

#: How many partitions are opened at the same time. Each holds the records of one fetch.
MAX_OPENING = 8
PROGRESS_EVERY_SECONDS = 5.0
#: How often to check for transactions that hold records up, and after how many checks to log it.
LOOK_SECONDS, LOOKS_BEFORE_TOLD = 1.0, 3
#: How long a broker may take to say where a log ends. Another worker may be waiting for the answer.
ASK_END_SECONDS = 0.5
#: The part of the session time-out after which the broker aborts an open transaction: it is over
#: before the worker's session is.
TRANSACTION_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings that the engine needs."""

    connection: Connection
    app_id: str
    member_name: str
    session_timeout_seconds: float
    tidy_every_seconds: float
    compression: str = "none"
    #: Topics that cycles write, beside the topics of the tables.
    written: Sequence[str] = ()
    #: Raises `NotWrittenError` while a sealed table must not continue.
    require_current: Callable[[], Awaitable[None]] = never_sealed
    #: Called before a source is applied from records that may have been applied before.
    read_again: Callable[[TP], Awaitable[None]] = not_read_again


class Progress:
    """The progress of a recovery of several partitions."""

    def __init__(self) -> None:
        self.rows = 0
        self._left: dict[OwnedPartition, int] = {}
        self._began = time.perf_counter()

    def advance(self, partition: OwnedPartition, rows: int, left: int) -> None:
        """Count the rows that were written; ``left`` is how many the partition still needs."""
        self.rows += rows
        self._left[partition] = left

    @property
    def seconds(self) -> float:
        """Seconds since the recovery began."""
        return time.perf_counter() - self._began

    def as_fields(self) -> dict[str, Any]:
        """Return rows, rows a second, and the seconds that are left at this rate."""
        rate = self.rows / max(self.seconds, 1e-6)
        seconds_left = sum(self._left.values()) / rate if rate else 0.0
        return {
            "rows": self.rows,
            "rows_per_second": round(rate),
            "seconds_left": round(seconds_left, 1),
        }


class PartitionAssignment(Service):
    """Opens, keeps and closes partitions as the group assigns them."""

    def __init__(
        self, app: AppT, partitions: Partitions, settings: EngineSettings, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        #: Faust waits for this before it counts the worker as started.
        self.completed = asyncio.Event()
        self._app = app
        self._partitions = partitions
        self._settings = settings
        self._member: Member | None = None
        self._opening = asyncio.Semaphore(MAX_OPENING)
        self._running: list[asyncio.Task[None]] = []
        #: Set once an error has ended the worker. Later errors follow from it.
        self._has_failed = False
        # Three clients, so that a fetch that waits for records delays nothing else.
        topics = [*partitions.sources, *(t.changelog.topic for t in partitions.tables.values())]
        connection = settings.connection
        self._reading, self._fetching, self._writing = self._clusters = (
            Cluster(connection, [*topics, *settings.written]),
            Cluster(connection, partitions.sources),
            Cluster(connection, [*topics, *settings.written]),
        )
        self._fetcher = Fetcher(self._fetching, self._on_fetch_failure)
        self._producer = TransactionalProducer(
            self._writing,
            connection,
            worker_id(settings.app_id, settings.member_name),
            int(settings.session_timeout_seconds * TRANSACTION_SHARE * 1000),
            COMPRESSIONS[settings.compression],
        )
        self._context = Opening(
            settings.app_id,
            connection,
            Reading(self._reading, Barrier(self._reading, settings.app_id)),
            settings.require_current,
            settings.read_again,
            partitions.prepare,
        )
        self.cycles = Cycles(
            partitions,
            self._fetcher,
            self._producer,
            self._context,
            Callbacks(self._on_fenced, self.end_worker),
        )

    # -- what Faust's table manager calls

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop opening and following. The consumer settles the cycle that is under way."""
        for task in self._running:
            task.cancel()

    async def on_rebalance(
        self,
        assigned: set[TP],
        revoked: set[TP],
        newly_assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Begin to take over the assigned partitions. Faust does not wait for this."""
        await self._stop_tasks()
        # Read the membership now, in the assignment callback. Later it may be of the next
        # generation.
        member, before = self._consumer.member(), self._member
        # Between two consecutive generations no other worker can have owned the kept partitions.
        kept = (
            before is not None
            and member.member_id == before.member_id
            and member.generation - before.generation in (0, 1)
        )
        work = self._guard(self._take_over(member, kept))
        self._running = [asyncio.create_task(work, name="assignment")]

    def ends(self) -> Mapping[TP, int]:
        """Return where the sources end: their high watermarks."""
        return self._fetcher.ends()

    async def reaches(self, tp: TP, offset: int) -> bool:
        """Return whether a log has an offset; also True if no broker answers in time."""
        if offset < self.ends().get(tp, 0):
            return True
        try:
            async with asyncio.timeout(ASK_END_SECONDS):
                return offset < (await self._reading.ends([tp]))[tp]
        except (KafkaError, TimeoutError):
            return True

    async def settle(self) -> None:
        """Finish the cycle that is under way, because a rebalance has begun."""
        await self.cycles.settle()

    @Service.task
    async def _keep_tidy(self) -> None:
        """Remove superfluous rows and files from time to time."""
        while True:
            await self.sleep(self._settings.tidy_every_seconds)
            if self.should_stop:
                return
            with contextlib.suppress(*TRANSIENT):
                await self.cycles.tidy()
            for table in self._partitions.tables.values():
                try:
                    table.store.tidy()
                except (RegistryError, OSError) as error:
                    log.warning("a store cannot be tidied", table=table.name, cause=str(error))

    @Service.task
    async def _look_for_open_transactions(self) -> None:
        """End transactions that this worker left open in a source; log those of other workers."""
        held_up: dict[TP, int] = {}
        while True:
            await self.sleep(LOOK_SECONDS)
            if self.should_stop:
                return
            held_up = {tp: held_up.get(tp, 0) + 1 for tp in self._fetcher.held_up()}
            for tp in (tp for tp, looks in held_up.items() if looks % LOOKS_BEFORE_TOLD == 0):
                try:
                    await self._end_what_is_left(tp)
                except TRANSIENT:
                    continue  # it is looked again
                except Exception as error:
                    await self.end_worker(error)

    async def _end_what_is_left(self, tp: TP) -> None:
        at_work = await end_abandoned(self._reading, self._settings.app_id, tp)
        log.warning(
            "records wait behind an open transaction",
            topic=tp.topic,
            partition=tp.partition,
            at_work=sorted(at_work),
        )

    async def on_stop(self) -> None:
        """Stop everything and close all partitions."""
        await self._stop_tasks()
        await self.cycles.settle()
        await self._fetcher.stop()
        self._partitions.give_up(self._partitions.owned())
        await asyncio.gather(*(cluster.close() for cluster in self._clusters))

    async def _stop_tasks(self) -> None:
        tasks, self._running = self._running, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            await self.end_worker(error)

    # -- taking over

    async def _take_over(self, member: Member, kept: bool) -> None:
        wanted = self._wanted()
        self._partitions.give_up(
            partition
            for partition in self._partitions.owned()
            if not kept or partition.key not in wanted
        )
        # Only now: until here, owned partitions may be of an older generation.
        self._member = member
        self._follow_standbys(wanted)
        await self._open_flow()
        for name, number in wanted:
            if self._partitions.get(name, number) is None:
                table = self._partitions.tables[name]
                self._partitions.own(OwnedPartition(table, number, self._partitions.lease))
        await self._connect()
        self.cycles.begin(member)
        await self._read_all(self._partitions.owned())
        await self._complete(member.generation)

    async def _connect(self) -> None:
        """Connect, and end the transactions that an earlier run of this worker left open."""
        async for attempt in self._trying("the brokers are asked again"):
            with attempt:
                for cluster in self._clusters:
                    await cluster.start()
                self._fetcher.start()
                if not self._producer.is_started:
                    await self._producer.start()

    async def _read_all(self, partitions: list[OwnedPartition]) -> None:
        progress = Progress()
        opened = [partition for partition in partitions if not partition.is_open]
        reporting = asyncio.create_task(self._report(progress))
        try:
            await asyncio.gather(*(self._read(partition, progress) for partition in partitions))
        finally:
            reporting.cancel()
        if opened:
            log.info(
                "tables recovered",
                partitions=len(opened),
                seconds=round(progress.seconds, 3),
                **progress.as_fields(),
            )

    def _assigned(self, changelogs: Iterable[TP]) -> Iterable[Key]:
        by_topic = {t.changelog.topic: name for name, t in self._partitions.tables.items()}
        return ((by_topic[tp.topic], tp.partition) for tp in changelogs if tp.topic in by_topic)

    def _wanted(self) -> set[Key]:
        """Return the partitions to own: those whose sources are all assigned.

        A source is missing only while a worker of another version is in the group. It knows other
        topics, so Faust assigns them apart. Such a partition waits until that worker has left.
        """
        assigned = self._app.assignor.assigned_actives()
        wanted: set[Key] = set()
        for name, number in self._assigned(assigned):
            missing = {TP(t, number) for t in self._partitions.tables[name].sources} - assigned
            if missing:
                log.error(
                    "a partition rests: a worker of another version is in the group",
                    table=name,
                    partition=number,
                    missing=sorted(tp.topic for tp in missing),
                )
            else:
                wanted.add((name, number))
        return wanted

    async def _read(self, partition: OwnedPartition, progress: Progress) -> None:
        """Open a partition if it is not open, then apply its records from the marker on."""
        async for attempt in self._trying("a partition is opened again", partition):
            with attempt:
                if not partition.is_open:
                    async with self._opening:
                        await partition.open(self._context, partial(progress.advance, partition))
                    RECOVERY_SECONDS.labels(partition.table.name).observe(progress.seconds)
                if not self._partitions.lease.holds:
                    await self._consumer.is_member()
                self.cycles.read(partition)
        partition.trouble = None

    def _trying(self, what: str, partition: OwnedPartition | None = None) -> AsyncRetrying:
        """Return attempts that continue for as long as no broker answers."""

        def note(state: RetryCallState) -> None:
            cause = state.outcome and state.outcome.exception()
            if partition is not None:
                partition.trouble = str(cause) or type(cause).__name__
            log.warning(
                what,
                **({} if partition is None else {"table": partition.table.name}),
                **({} if partition is None else {"partition": partition.number}),
                attempt=state.attempt_number,
                cause=f"{type(cause).__name__}: {cause}",
            )

        return retries.OPENING.attempts(TRANSIENT, stop=disk_stays_bad, before_sleep=note)

    async def _open_flow(self) -> None:
        self._app.flow_control.resume()
        self._consumer.resume_flow()
        await cast(Any, self._app)._fetcher.maybe_start()

    async def _complete(self, generation: int) -> None:
        if generation != self._app.consumer_generation_id:
            return
        await self._app.on_rebalance_complete.send()
        self.completed.set()
        tables = cast(TableManager, self._app.tables)
        tables.on_actives_ready()
        tables.on_standbys_ready()
        self._app.on_rebalance_end()
        log.info("worker ready", partitions=len(self._partitions.owned()))

    async def _report(self, progress: Progress) -> None:
        while True:
            await asyncio.sleep(PROGRESS_EVERY_SECONDS)
            log.info("tables are recovering", **progress.as_fields())

    # -- standbys

    def _follow_standbys(self, owned: set[Key]) -> None:
        standbys = set(self._assigned(self._app.assignor.assigned_standbys())) - owned
        for name, table in self._partitions.tables.items():
            followed = [number for of, number in standbys if of == name]
            self._partitions.standbys[name] = followed
            table.store.close_others(followed + [number for of, number in owned if of == name])
            if followed:
                following = self._guard(self._follow(name, followed))
                self._running.append(asyncio.create_task(following))

    async def _follow(self, name: str, numbers: list[int]) -> None:
        changelog = self._partitions.tables[name].changelog
        while True:
            try:
                await changelog.follow(self._settings.connection, numbers)
            except TRANSIENT as error:
                log.warning("standbys follow again", cause=type(error).__name__)
                await asyncio.sleep(retries.STANDBYS.first_seconds)

    # -- trouble

    def _on_fenced(self, member: Member, error: FencedError) -> None:
        # If this worker has joined another generation already, the rebalance is under way. A worker
        # that was replaced must not rejoin under the same name. The consumer finds that out.
        if member == self._consumer.member() and not isinstance(error, ReplacedError):
            log.warning("this worker rejoins the group")
            self._consumer.rejoin()

    def _on_fetch_failure(self, error: Exception) -> None:
        self._running.append(asyncio.create_task(self.end_worker(error)))

    async def end_worker(self, error: Exception) -> None:
        """End this worker, because records cannot be applied."""
        if self._has_failed:
            return
        self._has_failed = True
        # Faust logs the text of the exception, and this text may hold personal data.
        told = isinstance(error, RegistryError)
        cause = str(error) if told else f"unexpected {type(error).__name__}"
        # For a bug, log where it is.
        raised = error.__cause__ if isinstance(error, DecisionError) else error
        log.critical("records cannot be applied; the worker ends", cause=cause, exc_info=raised)
        await self._app.crash(ApplyError(f"records cannot be applied: {cause}"))

    @property
    def _consumer(self) -> Consumer:
        return cast(Consumer, self._app.consumer)


class TableManager(FaustTableManager):
    """Faust's table manager with the recovery of this project."""

    def __init__(
        self, app: AppT, *, partitions: Partitions, engine: EngineSettings, **kwargs: Any
    ) -> None:
        super().__init__(app, **kwargs)
        self.partitions = partitions
        self._engine = engine
        self._assignment: PartitionAssignment | None = None

    @property
    def recovery(self) -> Any:
        """The recovery that runs after a rebalance."""
        if self._assignment is None:
            self._assignment = PartitionAssignment(
                self.app, self.partitions, self._engine, beacon=self.beacon
            )
        return self._assignment

    @property
    def batches(self) -> "asyncio.Queue[Batch]":
        """The batches that wait for the agents."""
        return cast(PartitionAssignment, self.recovery).cycles.batches

    def ends(self) -> Mapping[TP, int]:
        """Return where the sources end: their high watermarks."""
        return cast(PartitionAssignment, self.recovery).ends()

    async def reaches(self, tp: TP, offset: int) -> bool:
        """Return whether a log has an offset; also True if no broker answers in time."""
        return await cast(PartitionAssignment, self.recovery).reaches(tp, offset)

    async def settle(self) -> None:
        """Finish the cycle that is under way."""
        await cast(PartitionAssignment, self.recovery).settle()

    async def on_start(self) -> None:
        """Start at once. Faust's table manager waits for a second."""
        await self._update_channels()
        await self.recovery.start()

    async def on_stop(self) -> None:
        """Stop reading, then close the partitions, then the tables."""
        await cast(Any, self.app)._fetcher.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await self.recovery.stop()
        for table in self.values():
            await table.stop()
