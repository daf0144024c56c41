"""The producer of the write path: idempotent, acks=all; agents write in transactions."""

import asyncio
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from mode import Service

from app.errors import BrokerUnavailableError, OutcomeUnknownError, RecordTooLargeError
from app.records import Outgoing
from app.settings import Settings
from app.topics import MAX_DEAD_LETTER_BYTES

#: Records that come within this time travel in one batch: it trades latency for throughput.
LINGER_MS = 5
MAX_BATCH_BYTES = 256 * 1024

_Acknowledged = asyncio.Future[Any]


class SendsRecords(Protocol):
    """What the write path needs of a producer; tests may bring their own."""

    async def send(self, record: Outgoing) -> int:
        """Return the record's offset once the broker has acknowledged it."""
        ...


class Producer(Service):
    """Sends records and waits for their acknowledgement, within a limit."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._brokers = settings.kafka_brokers
        self._timeout = settings.ack_timeout_seconds
        self._kafka: AIOKafkaProducer | None = None

    async def on_start(self) -> None:
        """Connect; the first broker that answers will do."""
        kafka = AIOKafkaProducer(
            bootstrap_servers=self._brokers,
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            max_batch_size=MAX_BATCH_BYTES,
            max_request_size=2 * MAX_DEAD_LETTER_BYTES,
        )
        await kafka.start()
        self._kafka = kafka

    async def on_stop(self) -> None:
        """Send what waits, within the time-out, and disconnect."""
        kafka, self._kafka = self._kafka, None
        if kafka is not None:
            await _stop(kafka, self._timeout)

    async def send(self, record: Outgoing) -> int:
        """Return the record's offset once the broker has acknowledged it.

        Raises `BrokerUnavailableError` if it certainly was not written, `RecordTooLargeError` if
        the broker never will take it, and `OutcomeUnknownError` if nobody can tell: a retry of a
        registration is then safe.
        """
        if self._kafka is None:
            raise BrokerUnavailableError("the producer is not connected")
        acknowledged = await self._enqueue(self._kafka, record)
        try:
            async with asyncio.timeout(self._timeout):
                # Shielded: giving up the wait must not cancel a future that aiokafka resolves.
                metadata = await asyncio.shield(acknowledged)
        except MessageSizeTooLargeError as error:
            raise RecordTooLargeError(str(error)) from None
        except (TimeoutError, KafkaError) as error:
            raise OutcomeUnknownError(
                f"no acknowledgement from the broker ({type(error).__name__})"
            ) from None
        return int(metadata.offset)

    async def _enqueue(self, kafka: AIOKafkaProducer, record: Outgoing) -> _Acknowledged:
        try:
            async with asyncio.timeout(self._timeout):
                sent = await kafka.send(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    record.timestamp_ms,
                    list(record.headers),
                )
                return cast(_Acknowledged, sent)
        except MessageSizeTooLargeError as error:
            raise RecordTooLargeError(str(error)) from None
        except (TimeoutError, KafkaError) as error:
            raise BrokerUnavailableError(
                f"no broker takes records ({type(error).__name__})"
            ) from None


async def _stop(kafka: AIOKafkaProducer, timeout_seconds: float) -> None:
    # With the broker gone, aiokafka would wait for it without end.
    try:
        async with asyncio.timeout(timeout_seconds):
            await kafka.stop()
    except (TimeoutError, KafkaError):
        await kafka.client.close()
