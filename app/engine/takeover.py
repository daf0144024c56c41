"""What a rebalance brings: partitions are closed, opened and read on, standbys follow.

It stands where Faust's own recovery does (`TableManager.recovery`). Partitions that stay go on at
once; each new one is read as soon as its own store is up to date, and waits for no other.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterable
from functools import partial
from typing import Any, cast

import structlog
from aiokafka.errors import IllegalStateError, KafkaError
from faust.tables.manager import TableManager as FaustTableManager
from faust.types import TP, AppT
from mode import Service
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay
from tenacity.wait import wait_exponential_jitter

from app.engine.consumer import Consumer
from app.engine.partitions import (
    GIVE_UP_AFTER_SECONDS,
    MAX_BACK_OFF_SECONDS,
    FoldedTable,
    Key,
    OwnedPartition,
    Partitions,
    Surroundings,
)
from app.errors import ApplyError, NotWrittenError, RegistryError, StoreError
from app.metrics import RECOVERY_SECONDS

log = structlog.get_logger(__name__)

#: How many partitions are opened at the same time: each holds buffers of a consumer.
MAX_OPENING = 8
PROGRESS_EVERY_SECONDS = 5.0

_TRANSIENT = (NotWrittenError, StoreError, KafkaError, TimeoutError)


def _is_transient(error: BaseException) -> bool:
    # An illegal state is one that a rebalance has ended: trying again would not help.
    return isinstance(error, _TRANSIENT) and not isinstance(error, IllegalStateError)


class Progress:
    """How far the recovery of several partitions is."""

    def __init__(self) -> None:
        self.rows = 0
        self._left: dict[OwnedPartition, int] = {}
        self._began = time.perf_counter()

    def advance(self, partition: OwnedPartition, rows: int, left: int) -> None:
        """Count rows that were written, and what is left of the partition."""
        self.rows += rows
        self._left[partition] = left

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
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


class Takeover(Service):
    """Opens, keeps and closes partitions as the group assigns them."""

    def __init__(self, app: AppT, partitions: Partitions, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: Faust waits for this before it counts the worker as started.
        self.completed = asyncio.Event()
        self._app = app
        self._partitions = partitions
        self._turn = asyncio.Lock()
        self._opening = asyncio.Semaphore(MAX_OPENING)
        self._running: list[asyncio.Task[None]] = []
        self._generation = -1
        #: Set once something has ended the worker: what fails after that has failed of it.
        self._has_failed = False

    # -- what Faust's table manager calls

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop opening and following; what is under way is settled by the consumer."""
        for task in self._running:
            task.cancel()

    async def on_rebalance(
        self,
        assigned: set[TP],
        revoked: set[TP],
        newly_assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Begin to take over what is assigned; Faust does not wait for it."""
        await self._stop_tasks()
        # Between two generations that follow each other nobody else can have owned what we keep.
        kept = generation_id - self._generation in (0, 1)
        self._generation = generation_id
        self._running = [asyncio.create_task(self._guard(self._take_over(generation_id, kept)))]

    @Service.task
    async def _keep_pace(self) -> None:
        await self._partitions.pace.watch()

    @Service.task
    async def _keep_tidy(self) -> None:
        """Remove from topics and files, now and then, what is of no use any more."""
        while True:
            await self.sleep(self._partitions.tidy_every_seconds)
            if self.should_stop:
                return
            for partition in self._partitions.owned():
                partition.tidy()
            for table in self._partitions.tables.values():
                try:
                    table.store.tidy()
                except (RegistryError, OSError) as error:
                    log.warning("a store is not tidied", table=table.name, cause=str(error))

    async def on_stop(self) -> None:
        """Give up everything."""
        await self._stop_tasks()
        await self._partitions.give_up(self._partitions.owned())

    async def _stop_tasks(self) -> None:
        tasks, self._running = self._running, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except IllegalStateError:
            log.info("partitions were revoked while they were taken over")
        except Exception as error:
            await self._end_worker(error)

    # -- taking over

    async def _take_over(self, generation: int, kept: bool) -> None:
        wanted = self._wanted()
        await self._partitions.give_up(
            partition
            for partition in self._partitions.owned()
            if not kept or partition.key not in wanted
        )
        self._follow_standbys(wanted)
        await self._open_flow()
        for name, number in wanted:
            if self._partitions.get(name, number) is None:
                self._partitions.own(self._new(self._partitions.tables[name], number))
        await self._read_all(self._partitions.owned())
        await self._complete(generation)

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
        """Return the partitions to own: those of which all sources are assigned, too.

        They always are, unless a worker of another version is in the group that knows other topics:
        then Faust assigns those by themselves, and their partitions rest until it has left.
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

    def _new(self, table: FoldedTable, number: int) -> OwnedPartition:
        return OwnedPartition(
            table,
            number,
            Surroundings(
                app_id=self._app.conf.id,
                turn=self._turn,
                pace=self._partitions.pace,
                lease=self._partitions.lease,
                is_member=self._consumer.is_member,
                on_fenced=self._on_fenced,
                on_failure=self._end_worker,
                read_again=self._consumer.read_from,
                tidy=self._partitions.tidy_of(table.name),
                require_standing=self._partitions.require_standing,
                ends=self._partitions.ends,
            ),
        )

    async def _read(self, partition: OwnedPartition, progress: Progress) -> None:
        """Open a partition, if it is not; then let its records flow, from the marker on."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_is_transient),
            wait=wait_exponential_jitter(multiplier=0.1, max=MAX_BACK_OFF_SECONDS),
            stop=stop_after_delay(GIVE_UP_AFTER_SECONDS),
            before_sleep=partial(partition.note_trouble, "a partition is opened again"),
            reraise=True,
        ):
            with attempt:
                if not partition.is_open:
                    async with self._opening:
                        await partition.open(partial(progress.advance, partition))
                    RECOVERY_SECONDS.labels(partition.table.name).observe(progress.seconds)
                await self._begin(partition)
        partition.trouble = None

    async def _begin(self, partition: OwnedPartition) -> None:
        partition.begin()
        for source in partition.sources():
            await self._consumer.read_from(source, partition.applied(source.topic))
        if not self._partitions.lease.holds:
            await self._consumer.is_member()

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
                following = self._guard(self._follow(table, followed))
                self._running.append(asyncio.create_task(following))

    async def _follow(self, table: FoldedTable, numbers: list[int]) -> None:
        while True:
            try:
                await table.changelog.follow(numbers)
            except (*_TRANSIENT, OSError) as error:
                log.warning("standbys follow again", cause=type(error).__name__)
                await asyncio.sleep(MAX_BACK_OFF_SECONDS)

    # -- trouble

    def _on_fenced(self, partition: OwnedPartition) -> None:
        log.warning(
            "another worker has taken a partition over; rejoining the group",
            table=partition.table.name,
            partition=partition.number,
        )
        self._consumer.rejoin()

    async def _end_worker(self, error: Exception) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        # Faust logs an exception's text, and this one's may be personal.
        told = isinstance(error, RegistryError)
        cause = str(error) if told else f"unexpected {type(error).__name__}"
        log.critical("records cannot be applied; the worker ends", cause=cause, exc_info=error)
        await self._app.crash(ApplyError(f"records cannot be applied: {cause}"))

    @property
    def _consumer(self) -> Consumer:
        return cast(Consumer, self._app.consumer)


class TableManager(FaustTableManager):
    """Faust's table manager, with our way of taking tables over."""

    def __init__(self, app: AppT, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self.partitions = Partitions()
        self._takeover: Takeover | None = None

    @property
    def recovery(self) -> Any:
        """What brings the tables up to date after a rebalance."""
        if self._takeover is None:
            self._takeover = Takeover(self.app, self.partitions, beacon=self.beacon)
        return self._takeover

    async def on_start(self) -> None:
        """Start at once; Faust's own waits for a second."""
        await self._update_channels()
        await self.recovery.start()

    async def on_stop(self) -> None:
        """Stop reading, then give up the partitions, then close the tables."""
        await cast(Any, self.app)._fetcher.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await self.recovery.stop()
        for table in self.values():
            await table.stop()
