"""Consumption: what one fetch returns for one partition is one event, and nothing is skipped.

Faust makes two tasks and a lock of every record, and keeps track of acknowledged offsets one by
one. Here the records of a folded topic travel as a `Fold`; what is applied of it is known to the
partition's owner, and that is committed for the group, for lag displays. Other topics keep Faust's
path.

Faust finds the transport by the URL scheme ``registry://`` (entry point ``faust.transports``).
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, cast

import aiokafka
import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from app.engine.folding import Fold
from app.engine.lean import make_lean
from app.engine.partitions import Partitions
from app.engine.probe import brokers_answer
from app.errors import KafkaAccessError, StuckError
from app.refusals import missing_to

log = structlog.get_logger(__name__)

#: How long a fetch waits while some partition has no room: then it is asked for again.
BUSY_POLL_SECONDS = 0.01


#: How long the broker may hold a fetch that finds nothing; Faust's own would be 1,500 ms.
FETCH_MAX_WAIT_MS = 100

#: Without a broker, aiokafka would try to commit without end.
COMMIT_TIMEOUT_SECONDS = 10.0

#: How often a session the broker is asked whether it knows this member, at least every so many
#: seconds. With two commits that stay without any answer: together less than 30 s.
ASKS_A_SESSION = 4
MAX_ASK_SECONDS = 5.0

#: Joining takes as long as others need to let go, at most REBALANCE_TIMEOUT_SECONDS (`app.main`).
MAX_JOIN_SECONDS = 60.0

#: How long leaving the group may take; who does not leave is out when the session is over.
LEAVE_TIMEOUT_SECONDS = 5.0


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's thread of the consumer: it folds, and reads what is committed only."""

    #: Commits since the last one that had an answer, be it a refusal.
    unanswered = 0
    #: When this worker let go of its partitions to join its group anew; None if it is in it.
    joins_since: float | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether something should have been answered long ago, if the brokers are there."""
        joins_since = self.joins_since
        return self.unanswered > 0 or (
            joins_since is not None and time.monotonic() - joins_since > MAX_JOIN_SECONDS
        )

    def begin_anew(self) -> None:
        """Take no account of what was not answered until now."""
        self.unanswered = 0
        if self.joins_since is not None:
            self.joins_since = time.monotonic()

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        # A partition that is opened, or was busy, joins the fetches only when one has returned.
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """Start the consumer."""
        await super().on_start()
        make_lean(self._ensure_consumer())

    async def on_thread_stop(self) -> None:
        """Stop the consumer, even if its broker is away or it is stuck."""
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_SECONDS):
                await super().on_thread_stop()
        except TimeoutError:
            log.warning("left without telling the group", seconds=LEAVE_TIMEOUT_SECONDS)
        except asyncio.CancelledError:
            # A fetch that waits to be tried again tells aiokafka so that it was cancelled; the
            # thread would die of it, and the worker wait for it without end.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise

    def _stopped_set(self) -> None:
        # After a crash the thread may have ended, and nobody waits to be told.
        if not self.thread_loop.is_closed():
            super()._stopped_set()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let go of the partitions; what follows is the request to join."""
        await super().on_partitions_revoked(revoked)
        self.joins_since = time.monotonic()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Leave changelogs alone: their stores are brought up to date by consumers of their own."""
        self.joins_since = None
        changelogs = [tp for tp in assigned if self.consumer._is_changelog_tp(tp)]
        self._ensure_consumer().pause(*(driver.ensure_aiokafka_TP(tp) for tp in changelogs))
        await super().on_partitions_assigned(assigned, generation_id)

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Mapping[TP, list[Any]]:
        before = self._positions(consumer, active_partitions)
        fetched = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        records = {ensure_TP(tp): found for tp, found in fetched.items()}
        after = self._positions(consumer, before)
        for tp, start in before.items():
            following = after.get(tp, start)
            # Control records move the position, too, and leave nothing to apply.
            if following > start:
                records[tp] = [Fold(tp, start, following, records.get(tp, []))]
        return records

    def _positions(
        self, consumer: aiokafka.AIOKafkaConsumer, partitions: Iterable[TP]
    ) -> dict[TP, int]:
        """Return where the consumer stands in those of the partitions that are folded."""
        folded = cast(Consumer, self.consumer).partitions.is_folded
        assigned = consumer._subscription.subscription
        assignment = assigned and assigned.assignment
        positions: dict[TP, int] = {}
        for tp in partitions if assignment else ():
            state = folded(tp.topic) and assignment.state_value(driver.ensure_aiokafka_TP(tp))
            if state and state.has_valid_position:
                positions[tp] = state.position
        return positions

    async def commit_applied(self, offsets: Mapping[TP, int]) -> bool:
        """Commit offsets; return whether the broker took them, and so knows this member."""
        if self.thread_loop.is_closed():
            return False  # the worker has crashed, and this thread has ended first
        if self.joins_since is not None:
            # The broker would answer after the request to join: refused, as one of the generation
            # before, upon which aiokafka would forget the new one and join again.
            return False
        wanted = {
            driver.ensure_aiokafka_TP(tp): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
        }
        try:
            # The second limit is for a thread that does not even notice the first.
            async with asyncio.timeout(COMMIT_TIMEOUT_SECONDS + 1):
                await self.call_thread(self._commit_in_time, wanted)
        except (TimeoutError, KafkaError) as error:
            log.info("group offsets are not committed", cause=type(error).__name__)
            self.unanswered = self.unanswered + 1 if isinstance(error, TimeoutError) else 0
            return False
        self.unanswered = 0
        return True

    async def _commit_in_time(self, offsets: Mapping[Any, OffsetAndMetadata]) -> None:
        # Within the thread, which has few hands: what is given up must not keep one busy.
        async with asyncio.timeout(COMMIT_TIMEOUT_SECONDS):
            await self._ensure_consumer().commit(offsets)

    def leave_for_good(self) -> None:
        """Leave the group when this ends, though members of its kind are waited for."""
        # aiokafka asks nothing else of the name before it leaves.
        self._ensure_consumer()._coordinator._group_instance_id = None

    def rejoin(self) -> None:
        """Ask for a rebalance."""
        coordinator = self._ensure_consumer()._coordinator
        self.thread_loop.call_soon_threadsafe(coordinator.request_rejoin)


class Consumer(driver.Consumer):
    """Faust's consumer, with folds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._committed: dict[TP, int] = {}
        self._is_refused = False

    @property
    def partitions(self) -> Partitions:
        """The partitions that this worker owns."""
        return cast(Partitions, cast(Any, self.app.tables).partitions)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _our_thread(self) -> ConsumerThread:
        return cast(ConsumerThread, self._thread)

    # -- reading

    async def _getmany(
        self, active_partitions: set[TP] | None, timeout: float
    ) -> Mapping[TP, list[Any]]:
        active = active_partitions or set()
        wanted = {tp for tp in active if self.partitions.has_room(tp)}
        if not wanted:
            await asyncio.sleep(BUSY_POLL_SECONDS)
            return {}
        if len(wanted) < len(active):
            timeout = BUSY_POLL_SECONDS
        try:
            return await super()._getmany(wanted, timeout)
        except KafkaError as error:
            if (told := missing_to(error)) is None:
                raise
        # Not in the handler above: Faust would log where its error came from.
        await self._end_refused(told)
        return {}

    async def _end_refused(self, told: str) -> None:
        """End this worker: without the right, aiokafka's consumer never goes on."""
        await asyncio.sleep(BUSY_POLL_SECONDS)
        if not self._is_refused:
            self._is_refused = True
            log.critical("the brokers refuse this worker; it ends", reason=told)
            await self.app.crash(KafkaAccessError(told))

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if not isinstance(record, Fold):
            return super()._to_message(tp, record)
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.next - 1,
            0.0,
            0,
            [],
            None,
            cast(bytes, record),  # our schema lets it through as it is
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def read_from(self, tp: TP, offset: int) -> None:
        """Read a partition from an offset on."""
        await self.seek_wait({tp: offset})
        self._read_offset[tp] = None
        self.resume_partitions({tp})

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to what is applied: Faust does so when it has dropped what it fetched."""
        applied = self.partitions.applied()
        await self.seek_wait(applied)
        return applied

    # -- committing

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what is applied of folded topics; of others, what was acknowledged."""
        await self._commit_applied()
        return bool(await super().commit(topics, start_new_transaction))

    async def _commit_applied(self) -> None:
        applied = self._applied().items()
        new = {tp: offset for tp, offset in applied if self._committed.get(tp) != offset}
        if new and await self._confirmed(new):
            self._committed.update(new)

    async def _confirmed(self, applied: Mapping[TP, int]) -> bool:
        """Commit offsets; if the broker takes them, this worker is a member, and its lease new."""
        asked_at = time.monotonic()
        if not await self._our_thread.commit_applied(applied):
            return False
        self.partitions.lease.renew(asked_at)
        return True

    def _applied(self) -> dict[TP, int]:
        assigned = self.assignment()
        return {tp: offset for tp, offset in self.partitions.applied().items() if tp in assigned}

    async def is_member(self) -> bool:
        """Return whether the broker takes this worker for a member of its group."""
        return await self._confirmed(self.partitions.applied())

    @Service.task
    async def _notice_if_stuck(self) -> None:
        """End this worker if its consumer is stuck: a new one begins where this one stood."""
        between = min(self.partitions.lease.session_seconds / ASKS_A_SESSION, MAX_ASK_SECONDS)
        thread = self._our_thread
        while not self.should_stop:
            await self.sleep(between)
            await self._ask()
            if not thread.is_suspect:
                continue
            if not await brokers_answer(self._client()):
                thread.begin_anew()
                continue
            # What was asked while brokers were away tells nothing: once more, as all answer now.
            await self._ask()
            if thread.is_suspect and await brokers_answer(self._client()):
                log.critical("the consumer is stuck; the worker ends")
                await self.app.crash(StuckError("the consumer is stuck, though all brokers answer"))
                return

    async def _ask(self) -> None:
        """Ask the broker whether it knows this member, by a commit of what is applied."""
        if applied := self._applied():
            await self._confirmed(applied)

    def _client(self) -> Mapping[str, Any]:
        """Return by what the consumer's clients connect."""
        transport = cast(Any, self.transport)
        return {
            "bootstrap_servers": driver.server_list(transport.url, transport.default_port),
            **driver.credentials_to_aiokafka_auth(self.app.conf.broker_credentials),
        }

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Spare Faust's check of partitions that take another path than it thinks."""
        if not (self._is_changelog_tp(tp) or self.partitions.is_folded(tp.topic)):
            super().verify_event_path(now, tp)

    # -- leaving

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget what was committed: another may commit before we own it again."""
        self._committed.clear()
        await super().on_partitions_revoked(revoked)

    async def wait_empty(self) -> None:
        """Finish the transactions that are under way, then commit what is applied."""
        await self.partitions.settle()
        await super().wait_empty()

    def leave_for_good(self) -> None:
        """Leave the group when this ends: nobody comes back under the same name."""
        self._our_thread.leave_for_good()

    def rejoin(self) -> None:
        """Ask for a rebalance."""
        self._our_thread.rejoin()


class Transport(driver.Transport):
    """Faust's transport, with our consumer."""

    Consumer = Consumer
