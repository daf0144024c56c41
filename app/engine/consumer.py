"""Group membership: Faust's consumer joins the group and receives the assignment.

It reads nothing: records come by the engine's own fetcher, which never resets a position. What a
cycle is to decide is handed to Faust's agents in place of what a consumer would have fetched. Plain
offset commits are off: cycles commit offsets within their transactions.

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

#: The name of the group's protocol: workers of 0.8, which fence otherwise, have another one.
GROUP_PROTOCOL = "registry-cycles"

#: How long the broker may take to answer whether it knows this member.
ASK_TIMEOUT_SECONDS = 10.0

#: How long a worker may take to notice that it has joined anew itself.
REPLACED_SECONDS = 2.0

#: How often a session the broker is asked whether it knows this member, at least every so many
#: seconds. With two questions that stay without any answer: together less than 30 s.
ASKS_A_SESSION = 4
MAX_ASK_SECONDS = 5.0

#: Joining takes as long as others need to let go, at most REBALANCE_TIMEOUT_SECONDS (`app.main`).
MAX_JOIN_SECONDS = 60.0

#: How long leaving the group may take; who does not leave is out when the session is over.
LEAVE_TIMEOUT_SECONDS = 5.0


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's thread of the consumer, which is in the group and reads nothing."""

    #: Questions since the last one that had an answer, be it a refusal.
    unanswered = 0
    #: When this worker let go of its partitions to join its group anew; None if it is in it.
    joins_since: float | None = None
    #: As what this worker is in the group, as told with its assignment.
    member: Member | None = None

    @property
    def waits(self) -> bool:
        """Whether something is not answered yet: brokers that are away explain that."""
        return self.unanswered > 0 or self.joins_since is not None

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

    async def on_thread_stop(self) -> None:
        """Stop the consumer, even if its broker is away or it is stuck."""
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_SECONDS):
                await super().on_thread_stop()
        except TimeoutError:
            log.warning("left without telling the group", seconds=LEAVE_TIMEOUT_SECONDS)
        except asyncio.CancelledError:
            # What waits to be tried again tells aiokafka so that it was cancelled; the thread would
            # die of it, and the worker wait for it without end.
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
        """Take note of the generation, and read nothing of what is assigned."""
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
        """Return why the group does not take this worker, for good; None if it does, or may yet."""
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
        """Return whether the broker knows this member, and its generation.

        Raises `ReplacedError` if another worker has taken its name.
        """
        if self.thread_loop.is_closed():
            return False  # the worker has crashed, and this thread has ended first
        member = self.member
        if self.joins_since is not None or member is None:
            return False
        try:
            # The second limit is for a thread that does not even notice the first.
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
        # While others join, this member is still one of its generation.
        return error_code in (0, protocol.REBALANCE_IN_PROGRESS)

    async def _is_replaced(self, member: Member) -> bool:
        """Return whether another worker has the name, rather than this one as another member.

        One that was out for a session joins under its name again, and is told so late.
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
        """Ask within the thread, which so shows that it is alive."""
        async with asyncio.timeout(ASK_TIMEOUT_SECONDS):
            consumer = self._ensure_consumer()
            # aiokafka takes a consumer that never reads for stuck. All is paused: nothing comes.
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
        """Leave the group when this ends, though members of its kind are waited for."""
        # aiokafka asks nothing else of the name before it leaves.
        self._ensure_consumer()._coordinator._group_instance_id = None

    def rejoin(self) -> None:
        """Ask for a rebalance."""
        coordinator = self._ensure_consumer()._coordinator
        self.thread_loop.call_soon_threadsafe(coordinator.request_rejoin)


class Consumer(driver.Consumer):
    """Faust's consumer: a member of the group, whose records the engine brings."""

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
            # Faust would drop an event that comes again.
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
        """Commit nothing: cycles do."""
        return False

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek nowhere: nothing is read here."""
        return {}

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Spare Faust's check of partitions that take another path than it thinks."""

    # -- membership

    def member(self) -> Member:
        """Return as what this worker is in its group."""
        member = self._our_thread.member
        if member is None:
            raise RuntimeError("nothing was assigned yet")
        return member

    async def is_member(self) -> bool:
        """Return whether the broker takes this worker for a member of its group.

        If it does, what the worker owns is its own for another lease.
        """
        asked_at = self.partitions.lease.now()
        if not await self._our_thread.is_known():
            return False
        self.partitions.lease.renew(asked_at)
        return True

    @Service.task
    async def _notice_if_stuck(self) -> None:
        """End this worker if its consumer is stuck: a new one begins where this one stood."""
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
            # Asked all the while: an outage that is over when it is late would count, too.
            if not await brokers_answer(self._client()):
                thread.begin_anew()
                continue
            if not thread.is_suspect:
                continue
            # What was asked while brokers were away tells nothing: once more, as all answer now.
            await self.is_member()
            if thread.is_suspect and await brokers_answer(self._client()):
                log.critical("the consumer is stuck; the worker ends")
                await self.app.crash(StuckError("the consumer is stuck, though all brokers answer"))
                return

    def _client(self) -> Mapping[str, Any]:
        """Return by what the consumer's clients connect."""
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
        """Leave the group when this ends: nobody comes back under the same name."""
        self._our_thread.leave_for_good()

    def rejoin(self) -> None:
        """Ask for a rebalance."""
        self._our_thread.rejoin()


class Transport(driver.Transport):
    """Faust's transport, with our consumer."""

    Consumer = Consumer
