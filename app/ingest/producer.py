"""The producer of the write path: sends what the accumulator holds, in batches.

Idempotent, acks=all. A partition has one batch under way; what comes meanwhile is the next one, so
batches grow with the load and nobody waits for a full one. A batch is sent again, as the same bytes
under the same sequence number, until a write in it has waited for too long. Then it is given up,
and what the network may still hold of it is fenced before anyone hears of it (`write_fence`).
Agents write in transactions of their own, see `app.kafka.transactions`.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    DuplicateSequenceNumber,
    InvalidProducerEpoch,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NoError,
    OutOfOrderSequenceNumber,
    RecordListTooLargeError,
    UnknownError,
    UnknownProducerId,
    for_code,
)
from aiokafka.protocol.produce import ProduceRequest
from mode import Service

from app.config.settings import Settings
from app.domain.errors import (
    OutcomeOpenError,
    OutcomeUnknownError,
    OverloadedError,
    RecordTooLargeError,
    RegistryError,
)
from app.ingest import produce_batches
from app.ingest.accumulator import BufferBudget, Group, Offsets, PartitionBatcher
from app.ingest.produce_batches import Batch
from app.ingest.write_fence import WriteFence
from app.kafka.client_errors import refusal
from app.kafka.fast_records import ToWrite
from app.kafka.protocol import ProducerIdentity
from app.kafka.topics import TopicSpec
from app.kafka.transactions import COMPRESSIONS
from app.system import retries
from app.system.clocks import now
from app.telemetry.metrics import BATCH_RECORDS, WAITING_BYTES, WAITING_RECORDS

log = structlog.get_logger(__name__)

#: A partition whose batch is under way for this share of the time that a write waits is stalled:
#: it takes no more writes until the batch is acknowledged.
STALLED_SHARE = 0.5
#: A write is answered within so many times the time that it waits for an acknowledgement: what is
#: not acknowledged then is given up, and the rest is for the fence.
ANSWERED_WITHIN = 2.0
#: How often it is looked whether something waits for too long.
WATCH_SECONDS = 0.05
#: For how long it counts that the broker refused a batch, unless it takes another one before.
REFUSED_SECONDS = 30.0
#: No request, and no attempt to fence, takes less time than this before it counts as failed.
LEAST_TIMEOUT_SECONDS = 1.0
#: How long a start waits for the fence; then it goes on without it, and writes are refused.
START_SECONDS = 10.0
#: The broker forgets a transactional id that nobody has used for a week (a setting of its own).
RENEW_SECONDS = 6 * 3600.0
#: How long connections may take to close when this worker stops.
CLOSE_SECONDS = 0.2

_MIB = 1024 * 1024
_KIB = 1024
#: How much one request carries: half of one that was given up, and a step more for each batch that
#: is acknowledged. So a way that is too narrow for large requests carries small ones.
MAX_REQUEST_BYTES, LEAST_REQUEST_BYTES, REQUEST_STEP_BYTES = 8 * _MIB, 32 * _KIB, 16 * _KIB

_TOO_LARGE = MessageSizeTooLargeError, RecordListTooLargeError
#: What is wrong with the identity, or cannot be understood: no batch may follow under it.
_OUT_OF_STEP = InvalidProducerEpoch, OutOfOrderSequenceNumber, UnknownError, UnknownProducerId


class SendsRecords(Protocol):
    """What the write path needs of a producer; tests may bring their own."""

    def send(self, records: Mapping[int, Sequence[ToWrite]]) -> Mapping[int, Offsets]:
        """Return for each partition what will hold its records' offsets once acknowledged."""
        ...


@dataclass(eq=False, slots=True)
class _Partition:
    """A lane, and what is sent from it."""

    batcher: PartitionBatcher
    tp: TopicPartition
    sequence: produce_batches.Sequence = field(default_factory=produce_batches.Sequence)
    batch: Batch | None = None
    #: Who has sent it last, or was to.
    sent_by: AIOKafkaClient | None = None
    #: The size of that request.
    request_bytes: int = 0
    #: How often in a row it could not be sent, and what ends the pause after that.
    failures: int = 0
    rest: asyncio.TimerHandle | None = None

    def end_rest(self) -> None:
        """Send again at once: what comes next is another batch."""
        self.failures = 0
        if self.rest is not None:
            self.rest.cancel()
            self.rest = None


class Producer(Service):
    """Gathers records, sends them, and tells of each whether it is durable."""

    def __init__(self, settings: Settings, topic: TopicSpec, transactional_id: str) -> None:
        super().__init__()
        self._connection = settings.kafka
        self._timeout = settings.ack_timeout_seconds
        #: A write is sent at once if nothing was sent for so long; else with what comes meanwhile.
        self._linger_seconds = settings.write_linger_ms / 1000
        self._max_batch_bytes = settings.write_batch_kib * _KIB
        self._compression = COMPRESSIONS[settings.write_compression]
        self._writing = replace(
            retries.WRITING,
            first_seconds=settings.write_retry_ms / 1000,
            longest_seconds=settings.write_retry_max_ms / 1000,
        )
        self._topic = topic.name
        self._budget = BufferBudget(settings.max_waiting_records, settings.max_waiting_mib * _MIB)
        self._partitions = {
            number: _Partition(
                PartitionBatcher(number, self._budget), TopicPartition(topic.name, number)
            )
            for number in range(topic.partitions)
        }
        #: None while no broker is known that answers.
        self._client: AIOKafkaClient | None = None
        #: Requests under way, by client: one that is replaced is closed when it has none.
        self._under_way: Counter[AIOKafkaClient] = Counter()
        self._busy: set[tuple[AIOKafkaClient, int]] = set()
        self._requests: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._request_bytes = MAX_REQUEST_BYTES
        #: Partitions with something to send, in the order in which they came.
        self._ready: dict[_Partition, None] = {}
        self._something_to_send = asyncio.Event()
        self._fence = WriteFence(self._connection, transactional_id, topic.name)
        self._identity: ProducerIdentity | None = None
        self._fence_wanted = asyncio.Event()
        self._fenced = asyncio.Event()
        #: Why the broker refused a batch, and when.
        self._refusal = "", -math.inf
        self._stops = self._is_held = False

    # -- its life

    async def on_start(self) -> None:
        """Connect, and fence what a worker of the same name has left in its sockets."""
        for partition in self._partitions.values():
            partition.batcher.close()
        self._fence_wanted.set()
        WAITING_RECORDS.set_function(lambda: self._budget.used_records)
        WAITING_BYTES.set_function(lambda: self._budget.used_bytes)
        self.add_future(self._fence_all())
        self.add_future(self._send_all())
        self.add_future(self._watch())
        try:
            await asyncio.wait_for(self._fenced.wait(), START_SECONDS)
        except TimeoutError:
            log.warning("no broker fences what was written before: writes are refused until then")

    async def on_stop(self) -> None:
        """Disconnect, once all that waits is sent or the time for it is over."""
        under_way = [offsets for each in self._batchers for offsets in each.offsets()]
        if under_way:
            await asyncio.wait(under_way, timeout=self._timeout * ANSWERED_WITHIN)
        for batcher in self._batchers:
            batcher.close()
            batcher.tell_open(math.inf, "this worker stops")
            batcher.give_up("this worker stops")
        self._replace(None)
        for task in self._requests:
            task.cancel()
        if running := self._requests | self._closing:
            await asyncio.wait(running, timeout=CLOSE_SECONDS)

    @property
    def _batchers(self) -> Iterable[PartitionBatcher]:
        return [partition.batcher for partition in self._partitions.values()]

    # -- what comes in

    @property
    def refused(self) -> str | None:
        """Why the broker refused what it was sent last, if that is not long ago."""
        why, at = self._refusal
        return why if now() - at < REFUSED_SECONDS else None

    @property
    def is_busy(self) -> bool:
        """Whether writes wait to be acknowledged."""
        return self._budget.is_used

    def refuse(self) -> None:
        """Take no more records: this worker stops."""
        self._stops = True

    def hold(self, *, are_held: bool) -> None:
        """Refuse records for a while, or take them again."""
        self._is_held = are_held

    def send(self, records: Mapping[int, Sequence[ToWrite]]) -> Mapping[int, Offsets]:
        """Return for each partition what will hold its records' offsets once acknowledged.

        It will raise `BrokerUnavailableError` if they certainly were not written,
        `RecordTooLargeError` if the broker never will take one of them, `OutcomeUnknownError` if
        nobody can tell, but they are not written later, and `OutcomeOpenError` if they may be.
        Raises `OverloadedError` at once if all these together do not fit, or none are taken.
        """
        if self._stops:
            raise OverloadedError("this worker is stopping; another one takes the write")
        if self._is_held:
            raise OverloadedError("the registry is being repartitioned, or saved")
        at = now()
        made = self.loop.create_future
        groups = {number: Group(some, at, made()) for number, some in records.items()}
        self._budget.take(groups.values())
        for number, group in groups.items():
            self._add(self._partitions[number], group, at)
        return {number: group.offsets for number, group in groups.items()}

    def _add(self, partition: _Partition, group: Group, at: float) -> None:
        batcher = partition.batcher
        batcher.add(group)
        if self._client is None or batcher.is_closed or self._is_stalled(batcher, at):
            batcher.give_up("no broker takes records")
        elif not batcher.is_under_way:
            self._is_ready(partition)

    def _is_ready(self, partition: _Partition) -> None:
        if partition.rest is None:
            self._ready[partition] = None
            self._something_to_send.set()

    def _is_stalled(self, batcher: PartitionBatcher, at: float) -> bool:
        return batcher.is_stalled(at, self._timeout * STALLED_SHARE)

    # -- what is sent

    async def _send_all(self) -> None:
        """Send what is ready, again and again: all partitions of a broker in one request."""
        clock = asyncio.get_running_loop().time
        sent_at = -math.inf
        while True:
            await self._something_to_send.wait()
            await asyncio.sleep(max(sent_at + self._linger_seconds - clock(), 0.0))
            sent_at = clock()
            self._send_ready()

    def _send_ready(self) -> None:
        self._something_to_send.clear()
        ready, self._ready = self._ready, {}
        requests: dict[int, list[_Partition]] = {}
        for partition in ready:
            node = self._leader(partition)
            if node is None:
                self._again_later(partition)
            elif (self._client, node) in self._busy:
                self._ready[partition] = None
            else:
                requests.setdefault(node, []).append(partition)
        for node, partitions in requests.items():
            self._begin_request(node, partitions)

    def _leader(self, partition: _Partition) -> int | None:
        """Return the broker to send to, if it is known."""
        if self._client is None or self._identity is None:
            return None
        node: int | None = self._client.cluster.leader_for_partition(partition.tp)
        if node is None or node < 0:
            self._client.force_metadata_update()
            return None
        return node

    def _begin_request(self, node: int, partitions: Sequence[_Partition]) -> None:
        budget = self._request_bytes
        taken: list[tuple[_Partition, Batch]] = []
        for partition in partitions:
            if budget <= 0:
                self._ready[partition] = None  # for the next request
            elif (batch := self._batch(partition, min(budget, self._max_batch_bytes))) is not None:
                budget -= len(batch.data)
                taken.append((partition, batch))
        client = self._client
        if client is None:  # lost meanwhile
            for partition, _ in taken:
                self._again_later(partition)
        elif taken:
            self._busy.add((client, node))
            self._under_way[client] += 1
            for partition, batch in taken:
                batch.is_taken = True
                partition.sent_by, partition.request_bytes = client, self._request_bytes - budget
            task = asyncio.create_task(self._request(client, node, taken))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    def _batch(self, partition: _Partition, max_bytes: int) -> Batch | None:
        """Return the batch that is sent again, or a new one; None if it is too late for both."""
        at, batcher = now(), partition.batcher
        # This may run before `_watch` does, after this process was stopped for long.
        self._look_at(partition, at)
        batch = partition.batch
        if batch is not None:
            return None if batch.is_taken else batch
        if not batcher.waits or self._identity is None:
            return None
        batch = partition.sequence.build(
            self._identity, batcher.records(), max_bytes, self._compression
        )
        batcher.hand_over(batch.records, at)
        BATCH_RECORDS.observe(batch.records)
        partition.batch = batch
        return batch

    async def _request(
        self, client: AIOKafkaClient, node: int, taken: Sequence[tuple[_Partition, Batch]]
    ) -> None:
        lost: BaseException = KafkaConnectionError("the broker does not tell of the partition")
        told: Mapping[int, _Answer] = {}
        try:
            told = await self._ask(client, node, taken)
        # aiokafka may look for a connection that it has forgotten meanwhile.
        except (KafkaError, OSError, LookupError) as failure:
            lost = failure
        finally:
            self._busy.discard((client, node))
            self._ended(client)
        for partition, batch in taken:
            batch.is_taken = False
            if partition.batch is batch:  # else given up before, and told so
                error, offset = told.get(partition.tp.partition, (lost, -1))
                self._answered(client, partition, batch, error, offset)
        if self._ready:
            self._something_to_send.set()

    async def _ask(
        self, client: AIOKafkaClient, node: int, taken: Sequence[tuple[_Partition, Batch]]
    ) -> Mapping[int, "_Answer"]:
        """Send batches; return an error or none, and the first offset, of each partition."""
        if not await client.ready(node):
            raise NodeNotReadyError
        # To connect may have taken long. From here to the socket nothing is waited for.
        at = now()
        for partition, _ in taken:
            self._look_at(partition, at)
        data = []
        for partition, batch in taken:
            if partition.batch is batch:
                batch.begin_attempt()
                data.append((partition.tp.partition, batch.data))
        if not data:
            return {}
        timeout_ms = int(self._request_seconds * 1000)
        request = ProduceRequest(None, -1, timeout_ms, [(self._topic, data)])
        return _by_partition(await client.send(node, request))

    def _answered(
        self,
        client: AIOKafkaClient,
        partition: _Partition,
        batch: Batch,
        error: BaseException | None,
        offset: int,
    ) -> None:
        if error is None and offset >= 0:
            self._request_bytes = min(self._request_bytes + REQUEST_STEP_BYTES, MAX_REQUEST_BYTES)
            self._refusal = "", -math.inf
            partition.batcher.acknowledge(offset, now())
            self._written(partition, batch)
        elif error is None or isinstance(error, DuplicateSequenceNumber):
            # Kafka has it, but no longer knows where: it was sent again too late.
            partition.batcher.fail(
                OutcomeUnknownError("the broker does not know the position any more")
            )
            self._written(partition, batch)
        elif isinstance(error, _OUT_OF_STEP):
            log.warning("the broker is not in step with this worker", cause=type(error).__name__)
            self._give_up(partition)
        elif produce_batches.is_retriable(error):
            batch.end_attempt(error)
            if produce_batches.is_metadata_stale(error):
                client.force_metadata_update()
            self._again_later(partition)
        else:
            self._refused(partition, batch, error)

    def _written(self, partition: _Partition, batch: Batch) -> None:
        partition.sequence.written(batch)
        self._free(partition)

    def _free(self, partition: _Partition) -> None:
        partition.batch = None
        partition.end_rest()
        if partition.batcher.waits:
            self._is_ready(partition)

    def _again_later(self, partition: _Partition) -> None:
        """Let a partition rest: nothing is sent there meanwhile, whatever else comes for it."""
        if partition.rest is None:
            partition.failures += 1
            pause = self._writing.pause_seconds(partition.failures)
            partition.rest = self.loop.call_later(pause, self._has_rested, partition)

    def _has_rested(self, partition: _Partition) -> None:
        partition.rest = None
        self._is_ready(partition)

    def _refused(self, partition: _Partition, batch: Batch, error: BaseException) -> None:
        """Fail a batch that will never be taken, and was not."""
        told = self._note_refusal(error)
        batch.end_attempt(error)
        if batch.is_in_doubt:
            # What was sent before may be taken still.
            self._give_up(partition)
            return
        failure: RegistryError
        if isinstance(error, _TOO_LARGE):
            failure = RecordTooLargeError(str(error))
        else:
            # Parts of a request may have been written by batches before.
            why = told or type(error).__name__
            failure = OutcomeUnknownError(f"no acknowledgement from the broker ({why})")
        partition.batcher.fail(failure)
        self._free(partition)

    def _note_refusal(self, error: BaseException) -> str | None:
        told = refusal(self._connection, error)
        if told:
            if told != self.refused:
                log.error("the broker refuses a batch", reason=told)
            self._refusal = told, now()
        return told

    # -- what takes too long

    async def _watch(self) -> None:
        """Tell those who wait for too long, and give up what nobody acknowledges."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            at = now()
            for partition in self._partitions.values():
                self._look_at(partition, at)

    def _look_at(self, partition: _Partition, at: float) -> None:
        batcher, batch = partition.batcher, partition.batch
        batcher.drop_late(at - self._timeout)
        if self._is_stalled(batcher, at):
            batcher.give_up("the broker does not answer")
        if batch is not None and batcher.is_late(at, self._timeout):
            if not batch.is_answered:
                self._lose_connection(partition.sent_by)
            if batch.is_in_doubt:
                self._give_up(partition)
            else:
                batcher.fail_unwritten("no broker takes records in time")
                self._free(partition)
        batcher.tell_open(
            at - self._timeout * ANSWERED_WITHIN, "no acknowledgement, and no broker to ask"
        )

    def _give_up(self, partition: _Partition) -> None:
        """Give a batch up that may be written still: nothing is sent there before the fence."""
        partition.batch = None
        partition.end_rest()
        partition.batcher.close()
        partition.batcher.give_up("the connection to the broker is given up")
        half = max(partition.request_bytes // 2, LEAST_REQUEST_BYTES)
        self._request_bytes = min(self._request_bytes, half)
        self._fence_wanted.set()

    def _lose_connection(self, client: AIOKafkaClient | None) -> None:
        """Give a client up, unless there is another one already; the fence makes a new one."""
        if client is not None and client is self._client:
            log.warning("the producer's connection is given up; it connects anew")
            self._replace(None)
        self._fence_wanted.set()

    # -- the fence

    async def _fence_all(self) -> None:
        """Fence whatever is given up; renew the identity now and then, or it would be forgotten."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._fence_wanted.wait(), RENEW_SECONDS)
            await self._fence_surely()

    async def _fence_surely(self) -> None:
        for pause in retries.FENCE.pauses():
            self._fence_wanted.clear()
            closed = [each for each in self._partitions.values() if each.batcher.is_closed]
            try:
                async with asyncio.timeout(2 * self._request_seconds):
                    identity, is_fenced = await self._renew(closed)
                break
            except (KafkaError, OSError, TimeoutError, LookupError) as error:
                self._note_refusal(error)
                log.debug("no fence yet", cause=type(error).__name__)
            await asyncio.sleep(pause)
        self._identity = identity
        told = _FENCED if is_fenced else _NOT_FENCED
        for partition in closed:
            partition.batcher.open(told)
        self._fenced.set()
        log.info("the producer is connected", fenced_partitions=len(closed))

    async def _renew(self, closed: Sequence[_Partition]) -> tuple[ProducerIdentity, bool]:
        # Partitions with nothing in doubt need not wait for the fence of the others.
        self._replace(await self._connect())
        return await self._fence.renew([each.tp.partition for each in closed])

    async def _connect(self) -> AIOKafkaClient:
        """Return a client; the first broker that answers will do."""
        client = AIOKafkaClient(
            **self._connection.client(), request_timeout_ms=int(self._request_seconds * 1000)
        )
        try:
            await client.bootstrap()
            if not await client.add_topic(self._topic):
                raise KafkaConnectionError("no broker tells where the topic is")
        except BaseException:
            self._close(client)
            raise
        return client

    def _replace(self, client: AIOKafkaClient | None) -> None:
        """Take another client, if any; the one before is closed once its requests have ended."""
        before, self._client = self._client, client
        if before is not None and not self._under_way[before]:
            self._close(before)

    def _ended(self, client: AIOKafkaClient) -> None:
        self._under_way[client] -= 1
        if not self._under_way[client]:
            del self._under_way[client]
            if client is not self._client:
                self._close(client)

    def _close(self, client: AIOKafkaClient) -> None:
        # What is to be written to a broker that does not read holds this up.
        closing = asyncio.create_task(_closed(client))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    @property
    def _request_seconds(self) -> float:
        return max(self._timeout, LEAST_TIMEOUT_SECONDS)


_FENCED = OutcomeUnknownError("no acknowledgement from the broker in time")
_NOT_FENCED = OutcomeOpenError("no acknowledgement, and the broker has forgotten this worker")


async def _closed(client: AIOKafkaClient) -> None:
    with suppress(KafkaError, OSError):
        await client.close()


#: An error or none, and the offset of a batch's first record.
_Answer = tuple[BaseException | None, int]


def _by_partition(answer: Any) -> Mapping[int, _Answer]:
    """Return what an answer tells of each partition: an error or none, and the first offset."""
    return {
        number: (None if code == NoError.errno else for_code(code)(), offset)
        for _, partitions in answer.topics
        for number, code, offset, *_ in partitions
    }
