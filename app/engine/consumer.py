"""Group membership: Faust's consumer joins the group and receives the assignment.

It reads nothing. Records come by the engine's own fetcher, which never resets a position. Faust's
agents get the batches of cycles in place of fetched records. Plain offset commits are off: cycles
commit offsets in their transactions.

Faust finds the transport by the URL scheme ``registry://`` (entry point ``faust.transports``).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, cast

import structlog
from aiokafka.errors import InconsistentGroupProtocolError, KafkaError, for_code
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from app.domain.errors import KafkaAccessError, ReplacedError, StuckError
from app.engine.batches import Batch
from app.engine.partitions import Partitions
from app.engine.probe import brokers_answer
from app.kafka import protocol
from app.kafka.client_errors import missing_to
from app.kafka.protocol import Call
from app.kafka.transactions import Member

log = structlog.get_logger(__name__)

#: The name of the group's protocol. Workers of 0.8 fence in another way, and have another name.
GROUP_PROTOCOL = "registry-cycles"

#: How long the broker may take to say whether it knows this member.
ASK_TIMEOUT_SECONDS = 10.0

#: How long a worker may take to notice that it has rejoined the group itself.
REPLACED_SECONDS = 2.0

#: How many times a session the broker is asked whether it knows this member, and the longest pause
#: between. With two questions that get no answer, this is less than 30 s.
ASKS_A_SESSION = 4
MAX_ASK_SECONDS = 5.0

#: How long joining may take. Other workers have REBALANCE_TIMEOUT_SECONDS (`app.main`) to stop.
MAX_JOIN_SECONDS = 60.0

#: How long leaving the group may take. After the session the broker removes the member anyway.
LEAVE_TIMEOUT_SECONDS = 5.0


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread. It is in the group and reads nothing."""

    #: Questions since the last answer of the broker; a refusal is an answer.
    unanswered = 0
    #: When this worker gave up its partitions to rejoin the group; None while it is a member.
    joins_since: float | None = None
    #: This worker's membership, as it was at the last assignment.
    member: Member | None = None

    @property
    def waits(self) -> bool:
        """Whether an answer is missing. Brokers that are away can be the reason."""
        return self.unanswered > 0 or self.joins_since is not None

    @property
    def is_suspect(self) -> bool:
        """Whether an answer is overdue, unless brokers are away."""
        joins_since = self.joins_since
        return self.unanswered > 0 or (
            joins_since is not None and time.monotonic() - joins_since > MAX_JOIN_SECONDS
        )

    def forget_unanswered(self) -> None:
        """Start to count unanswered questions again."""
        self.unanswered = 0
        if self.joins_since is not None:
            self.joins_since = time.monotonic()

    async def on_thread_stop(self) -> None:
        """Stop the consumer, even if its broker is away or it is stuck."""
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_SECONDS):
                await super().on_thread_stop()
        except TimeoutError:
            log.warning("left without telling the group", seconds=LEAVE_TIMEOUT_SECONDS)
        except asyncio.CancelledError:
            # A retry that is cancelled looks to aiokafka as if the thread was cancelled. The thread
            # would end, and the worker would wait for it without end.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise

    def _stopped_set(self) -> None:
        # After a crash the thread may have ended already.
        if not self.thread_loop.is_closed():
            super()._stopped_set()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Give up the partitions. The request to join follows."""
        await super().on_partitions_revoked(revoked)
        self.joins_since = time.monotonic()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Note the generation. Read nothing."""
        self.joins_since = None
        consumer = self._ensure_consumer()
        coordinator = consumer._coordinator
        self.member = Member(
            coordinator.group_id,
            coordinator.generation,
            coordinator.member_id,
            coordinator._group_instance_id,
        )
        consumer.pause(*(driver.ensure_aiokafka_TP(tp) for tp in assigned))
        await super().on_partitions_assigned(assigned, generation_id)

    async def why_shut_out(self) -> str | None:
        """Return why the group refuses this worker for good; None if it does not, or not yet."""
        if self.thread_loop.is_closed() or self._consumer is None:
            return None
        try:
            async with asyncio.timeout(ASK_TIMEOUT_SECONDS):
                await self.call_thread(self._require_coordination)
        except InconsistentGroupProtocolError:
            return "workers of another version are in the group: stop them, then start this one"
        except TimeoutError:
            return None
        except KafkaError as error:
            return missing_to(error) or f"the group does not take it ({type(error).__name__})"
        return None

    async def _require_coordination(self) -> None:
        self._ensure_consumer()._coordinator.check_errors()

    async def is_known(self) -> bool:
        """Return whether the broker knows this member and its generation.

        Raises `ReplacedError` if another worker has taken its name.
        """
        if self.thread_loop.is_closed():
            return False  # the worker has crashed, and this thread has ended first
        member = self.member
        if self.joins_since is not None or member is None:
            return False
        try:
            # The outer limit is for a thread that is stuck and does not notice the inner limit.
            async with asyncio.timeout(ASK_TIMEOUT_SECONDS + 1):
                error_code = await self.call_thread(self._ask_in_time, member)
        except (TimeoutError, KafkaError) as error:
            log.info("the broker does not confirm this member", cause=type(error).__name__)
            self.unanswered = self.unanswered + 1 if isinstance(error, TimeoutError) else 0
            return False
        self.unanswered = 0
        if error_code == protocol.FENCED_INSTANCE_ID:
            if await self._is_replaced(member):
                raise ReplacedError("another worker runs under the same WORKER_ID and address")
            return False
        if error_code and (told := missing_to(for_code(error_code)())) is not None:
            raise KafkaAccessError(told)
        # While others join, this member is still a member of its generation.
        return error_code in (0, protocol.REBALANCE_IN_PROGRESS)

    async def _is_replaced(self, member: Member) -> bool:
        """Return whether another worker has this one's name.

        It may also be this worker under a new member id: a worker that was out for a session
        rejoins under its name, and learns that late.
        """
        await asyncio.sleep(REPLACED_SECONDS)
        if self.joins_since is not None or self.member != member:
            return False
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(ASK_TIMEOUT_SECONDS + 1):
                answer = await self.call_thread(self._ask_in_time, member)
                return bool(answer == protocol.FENCED_INSTANCE_ID)
        return False

    async def _ask_in_time(self, member: Member) -> int:
        """Ask within the thread. An answer also proves that the thread is alive."""
        async with asyncio.timeout(ASK_TIMEOUT_SECONDS):
            consumer = self._ensure_consumer()
            # aiokafka takes a consumer that never reads for stuck. All partitions are paused: no
            # record comes.
            await consumer.getmany(timeout_ms=0)
            if consumer._coordinator.member_id != member.member_id:
                return protocol.UNKNOWN_MEMBER_ID  # it is about to join as another one
            call = Call(
                protocol.Heartbeat,
                (member.group, member.generation, member.member_id, member.instance_id),
            )
            answer = await consumer._coordinator._send_req(call)
            return int(answer.error_code)

    def leave_for_good(self) -> None:
        """Leave the group at the end, although it is a static member."""
        # aiokafka reads the name again only to decide whether to leave.
        self._ensure_consumer()._coordinator._group_instance_id = None

    def rejoin(self) -> None:
        """Ask for a rebalance."""
        coordinator = self._ensure_consumer()._coordinator
        self.thread_loop.call_soon_threadsafe(coordinator.request_rejoin)


class Consumer(driver.Consumer):
    """Faust's consumer: a member of the group. The engine fetches its records."""

    @property
    def _tables(self) -> Any:
        return self.app.tables

    @property
    def partitions(self) -> Partitions:
        """The partitions that this worker owns."""
        return cast(Partitions, self._tables.partitions)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _our_thread(self) -> ConsumerThread:
        return cast(ConsumerThread, self._thread)

    # -- handing batches to agents

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield the next batch of the engine, as an event of its topic."""
        try:
            async with asyncio.timeout(timeout):
                batch: Batch = await self._tables.batches.get()
        except TimeoutError:
            return
        if self.flow_active and not batch.decided.done():
            # Faust would drop an event with an offset that it has seen.
            self._read_offset[batch.tp] = None
            yield batch.tp, self._to_event(batch)

    def _to_event(self, batch: Batch) -> ConsumerMessage:
        tp = batch.tp
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            batch.parts[0].records[0].offset,
            0.0,
            0,
            [],
            None,
            cast(bytes, batch),  # our schema lets it through as it is
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit nothing. Cycles commit offsets."""
        return False

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek nowhere. Nothing is read here."""
        return {}

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Skip Faust's check of the event path, which these partitions do not take."""

    # -- membership

    def member(self) -> Member:
        """Return this worker's membership."""
        member = self._our_thread.member
        if member is None:
            raise RuntimeError("nothing was assigned yet")
        return member

    async def is_member(self) -> bool:
        """Return whether the broker takes this worker for a member of its group.

        If it does, the worker's lease is renewed.
        """
        asked_at = self.partitions.lease.now()
        if not await self._our_thread.is_known():
            return False
        self.partitions.lease.renew(asked_at)
        return True

    @Service.task
    async def _notice_if_stuck(self) -> None:
        """End this worker if its consumer is stuck.

        A new worker continues where this one stopped.
        """
        between = min(self.partitions.lease.session_seconds / ASKS_A_SESSION, MAX_ASK_SECONDS)
        thread = self._our_thread
        while not self.should_stop:
            await self.sleep(between)
            try:
                if (told := await thread.why_shut_out()) is not None:
                    raise KafkaAccessError(told)
                await self.is_member()
            except (ReplacedError, KafkaAccessError) as error:
                log.critical("the brokers refuse this worker; it ends", reason=str(error))
                await self.app.crash(error)
                return
            if not thread.waits:
                continue
            # Check the brokers in each round, or an outage that has just ended would count as
            # stuck.
            if not await brokers_answer(self._client()):
                thread.forget_unanswered()
                continue
            if not thread.is_suspect:
                continue
            # Questions from the time of the outage say nothing. Ask again, now that all brokers
            # answer.
            await self.is_member()
            if thread.is_suspect and await brokers_answer(self._client()):
                log.critical("the consumer is stuck; the worker ends")
                await self.app.crash(StuckError("the consumer is stuck, though all brokers answer"))
                return

    def _client(self) -> Mapping[str, Any]:
        """Return the options with which the consumer's clients connect."""
        transport = cast(Any, self.transport)
        return {
            "bootstrap_servers": driver.server_list(transport.url, transport.default_port),
            **driver.credentials_to_aiokafka_auth(self.app.conf.broker_credentials),
        }

    # -- leaving

    async def wait_empty(self) -> None:
        """Finish the cycle that is under way."""
        await self._tables.settle()

    def leave_for_good(self) -> None:
        """Leave the group at the end. No worker will come back under this name."""
        self._our_thread.leave_for_good()

    def rejoin(self) -> None:
        """Ask for a rebalance."""
        self._our_thread.rejoin()


class Transport(driver.Transport):
    """Faust's transport, with our consumer."""

    Consumer = Consumer
