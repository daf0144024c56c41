"""The producer of replays. A replay and its mark are one transaction."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError, MessageSizeTooLargeError, ProducerFenced

from app.config.connection import Connection
from app.domain.errors import FencedError, NotWrittenError, RecordTooLargeError
from app.domain.records import Outgoing
from app.kafka.client_errors import unusable

#: How long the start, or one transaction, may take.
TIMEOUT_SECONDS = 15.0
#: How long the open transaction of a killed command can hold up readers.
BROKER_TIMEOUT_MS = 20_000
CLOSE_TIMEOUT_SECONDS = 2.0

MAX_BATCH_BYTES = 512 * 1024
#: A record that came compressed may be much larger than the broker's limit.
MAX_RECORD_BYTES = 128 * 1024 * 1024


class ReplayProducer:
    """Sends records in transactions. A producer that starts later fences the earlier ones."""

    def __init__(self, kafka: AIOKafkaProducer) -> None:
        self._kafka = kafka

    async def send(self, records: Sequence[Outgoing]) -> list[int]:
        """Send records in the open transaction; return their offsets."""
        sending = [await self._send_one(record) for record in records]
        return [sent.offset for sent in await asyncio.gather(*sending)]

    async def _send_one(self, record: Outgoing) -> Any:
        return await self._kafka.send(
            record.topic,
            record.value,
            record.key,
            record.partition,
            record.timestamp_ms,
            list(record.headers),
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commit what the block sends; abort all of it if the block raises.

        Raises `FencedError` if another producer has started since, `RecordTooLargeError` if the
        broker will never accept one of the records, and `NotWrittenError` if the outcome is
        unknown.
        """
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._kafka.transaction():
                yield
        # aiokafka raises one of these, or asserts, if the transaction has failed before.
        except (TimeoutError, KafkaError, IllegalOperation, AssertionError) as error:
            raise _meaning(self._kafka, error) from None


@asynccontextmanager
async def replay_producer(
    connection: Connection, transactional_id: str
) -> AsyncIterator[ReplayProducer]:
    """Yield a producer. Earlier producers are fenced, and their open transactions are aborted."""
    kafka = AIOKafkaProducer(
        **connection.client(),
        transactional_id=transactional_id,
        transaction_timeout_ms=BROKER_TIMEOUT_MS,
        acks="all",
        compression_type="zstd",
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=MAX_RECORD_BYTES,
        request_timeout_ms=int(TIMEOUT_SECONDS * 1000),
    )
    try:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await kafka.start()
        except (TimeoutError, KafkaError) as error:
            raise unusable(connection, error) from None
        yield ReplayProducer(kafka)
    finally:
        await _close(kafka)


async def _close(kafka: AIOKafkaProducer) -> None:
    # Without a limit, aiokafka would wait for an absent broker without end.
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await kafka.stop()
    except (TimeoutError, KafkaError):
        await kafka.client.close()


def _meaning(kafka: AIOKafkaProducer, error: Exception) -> Exception:
    if isinstance(error, ProducerFenced) or _ended_fenced(kafka):
        return FencedError("another `dead-letters replay` has begun meanwhile: this one ends")
    if isinstance(error, MessageSizeTooLargeError):
        return RecordTooLargeError("the broker takes no record as large")
    return NotWrittenError(
        f"a transaction may not be committed ({type(error).__name__}): list the letters, and "
        "replay what is left"
    )


def _ended_fenced(kafka: AIOKafkaProducer) -> bool:
    sender = kafka._sender.sender_task
    if sender is None or not sender.done() or sender.cancelled():
        return False
    return isinstance(sender.exception(), ProducerFenced)
