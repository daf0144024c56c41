"""The producer of the write path: what comes in is gathered by partition, and sent in batches.

Idempotent, acks=all. A partition has one batch under way; what comes meanwhile is the next one, so
batches grow with the load and nobody waits for a full one. Agents write in transactions of their
own, see `app.engine.transactions`.
"""

import asyncio
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from mode import Service
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from app.engine.lean import ToWrite, fill
from app.engine.transactions import MAX_BATCH_BYTES, disconnect
from app.errors import OutcomeUnknownError, RecordTooLargeError
from app.gathering import Group, Lane, Offsets, Room
from app.metrics import BATCH_RECORDS, WAITING_BYTES, WAITING_RECORDS
from app.refusals import refusal
from app.settings import Settings

log = structlog.get_logger(__name__)

#: What comes within this time travels in one batch.
LINGER_SECONDS = 0.002
#: A partition whose batch is under way for this share of the time that a write waits is stalled:
#: it takes no more writes until the batch is acknowledged.
STALLED_SHARE = 0.5
#: A batch that is not acknowledged for so long is given up, with the connection that it is on.
DELIVERY_SECONDS = 10.0
#: How often it is looked whether something waits for too long.
WATCH_SECONDS = 0.1
#: For how long it counts that the broker refused a batch, unless it takes another one before.
REFUSED_SECONDS = 30.0
#: The first and the longest pause between two attempts to connect; they double, and vary.
RECONNECT_SECONDS = (0.1, 2.0)

_MIB = 1024 * 1024


class SendsRecords(Protocol):
    """What the write path needs of a producer; tests may bring their own."""

    def send(self, records: Mapping[int, Sequence[ToWrite]]) -> Mapping[int, Offsets]:
        """Return for each partition what will hold its records' offsets once acknowledged."""
        ...


class Producer(Service):
    """Gathers records, sends them, and tells of each whether it is durable."""

    def __init__(self, settings: Settings, topic: str) -> None:
        super().__init__()
        self._connection = settings.kafka
        self._timeout = settings.ack_timeout_seconds
        self._topic = topic
        self._room = Room(settings.max_waiting_records, settings.max_waiting_mib * _MIB)
        self._kafka: AIOKafkaProducer | None = None
        self._lanes: dict[int, Lane] = {}
        #: Lanes with records that wait, and no batch under way.
        self._ready: set[Lane] = set()
        self._something_to_send = asyncio.Event()
        #: Why the broker refused a batch, and when.
        self._refusal = "", -math.inf

    # -- its life

    async def on_start(self) -> None:
        """Connect; the first broker that answers will do."""
        self._kafka = await self._connect()
        WAITING_RECORDS.set_function(lambda: self._room.used_records)
        WAITING_BYTES.set_function(lambda: self._room.used_bytes)
        self.add_future(self._send_all())
        self.add_future(self._watch())

    async def on_stop(self) -> None:
        """Disconnect, once all that waits is sent or the time for it is over."""
        under_way = [offsets for lane in self._all for offsets in lane.offsets()]
        if under_way:
            await asyncio.wait(under_way, timeout=self._timeout)
        kafka, self._kafka = self._kafka, None
        self._give_up("this worker stops")
        if kafka is not None:
            await disconnect(kafka)

    async def _connect(self) -> AIOKafkaProducer:
        kafka = AIOKafkaProducer(
            **self._connection.client(),
            acks="all",
            enable_idempotence=True,
            max_batch_size=MAX_BATCH_BYTES,
        )
        try:
            await kafka.start()
        except BaseException:
            await disconnect(kafka)
            raise
        return kafka

    # -- what is sent

    @property
    def refused(self) -> str | None:
        """Why the broker refused what it was sent last, if that is not long ago."""
        why, at = self._refusal
        return why if self._now() - at < REFUSED_SECONDS else None

    @property
    def is_busy(self) -> bool:
        """Whether writes wait to be acknowledged."""
        return self._room.is_used

    def send(self, records: Mapping[int, Sequence[ToWrite]]) -> Mapping[int, Offsets]:
        """Return for each partition what will hold its records' offsets once acknowledged.

        It will raise `BrokerUnavailableError` if they certainly were not written,
        `RecordTooLargeError` if the broker never will take one of them, and `OutcomeUnknownError`
        if nobody can tell. Raises `OverloadedError` at once if all these together do not fit.
        """
        now = self._now()
        made = self.loop.create_future
        groups = {number: Group(some, now, made()) for number, some in records.items()}
        self._room.take(groups.values())
        for number, group in groups.items():
            self._add(self._lane(number), group, now)
        return {number: group.offsets for number, group in groups.items()}

    def _lane(self, partition: int) -> Lane:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = Lane(partition, self._room)
        return lane

    def _add(self, lane: Lane, group: Group, now: float) -> None:
        lane.add(group)
        if self._kafka is None or self._is_stalled(lane, now):
            lane.give_up("no broker takes records")
        elif not lane.is_under_way:
            self._is_ready(lane)

    def _is_ready(self, lane: Lane) -> None:
        self._ready.add(lane)
        self._something_to_send.set()

    async def _send_all(self) -> None:
        """Send what is ready, again and again: all partitions of a broker in one request."""
        while not self.should_stop:
            await self._something_to_send.wait()
            await asyncio.sleep(LINGER_SECONDS)
            self._something_to_send.clear()
            ready, self._ready = self._ready, set()
            for lane in ready:
                if self._kafka is not None and lane.waits:
                    await self._send_batch(self._kafka, lane)

    async def _send_batch(self, kafka: AIOKafkaProducer, lane: Lane) -> None:
        batch, records = kafka.create_batch(), lane.records()
        fill(batch, next(records), records)
        lane.hand_over(batch.record_count(), self._now())
        BATCH_RECORDS.observe(batch.record_count())
        try:
            # It does not wait: nothing else is under way to the partition. What is not
            # acknowledged aiokafka sends again every 100 ms, under the same sequence number.
            sent = await kafka.send_batch(batch, self._topic, partition=lane.partition)
        except KafkaError as error:
            self._failed(kafka, lane, error)
        else:
            sent.add_done_callback(partial(self._sent, kafka, lane))

    def _sent(self, kafka: AIOKafkaProducer, lane: Lane, sent: asyncio.Future[Any]) -> None:
        error = sent.exception()
        if kafka is not self._kafka:
            return  # given up before, and told so
        if error is not None:
            self._failed(kafka, lane, error)
        elif sent.result().offset < 0:
            # Kafka has it, but no longer knows where: it was sent again too late.
            lane.fail(OutcomeUnknownError("the broker does not know the position any more"))
        else:
            lane.acknowledge(sent.result().offset, self._now())
            self._refusal = "", -math.inf
        if lane.waits:
            self._is_ready(lane)

    def _failed(self, kafka: AIOKafkaProducer, lane: Lane, error: BaseException) -> None:
        if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
            lane.fail(RecordTooLargeError(str(error)))
            return
        # What aiokafka does not try again, no batch after this one may follow.
        why = type(error).__name__
        if told := refusal(self._connection, error):
            if told != self.refused:
                log.error("the broker refuses a batch", reason=told)
            self._refusal = told, self._now()
        lane.fail(OutcomeUnknownError(f"no acknowledgement from the broker ({told or why})"))
        self._renew(kafka)

    # -- a broken connection

    async def _watch(self) -> None:
        """Tell those who wait for too long, and give up a connection on which nothing moves."""
        while not self.should_stop:
            await self.sleep(WATCH_SECONDS)
            now = self._now()
            for lane in self._all:
                lane.tell_late(now - self._timeout)
                if self._is_stalled(lane, now):
                    lane.give_up("the broker does not answer")
            if self._kafka and any(lane.is_stalled(now, DELIVERY_SECONDS) for lane in self._all):
                self._renew(self._kafka)

    @property
    def _all(self) -> Iterable[Lane]:
        return self._lanes.values()

    def _is_stalled(self, lane: Lane, now: float) -> bool:
        return lane.is_stalled(now, self._timeout * STALLED_SHARE)

    def _renew(self, kafka: AIOKafkaProducer) -> None:
        """Give a connection up, with all that is under way on it, and make another."""
        if kafka is self._kafka:
            self._kafka = None
            self._give_up("the connection to the broker is given up")
            self.add_future(self._reconnect(kafka))

    def _give_up(self, why: str) -> None:
        for lane in self._all:
            lane.fail(OutcomeUnknownError(why))
            lane.give_up(why)

    async def _reconnect(self, given_up: AIOKafkaProducer) -> None:
        log.warning("the producer's connection is given up; it connects anew")
        await disconnect(given_up)
        first, longest = RECONNECT_SECONDS
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((KafkaError, OSError)),
            wait=wait_exponential_jitter(multiplier=first, max=longest, jitter=first),
        ):
            with attempt:
                kafka = await self._connect()
        self._kafka = kafka
        log.info("the producer is connected again")

    @staticmethod
    def _now() -> float:
        return time.monotonic()
