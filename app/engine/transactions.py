"""A partition's producer: one transaction a batch, fenced.

Whoever starts a producer under a transactional id is from then on the only one that can commit
under it; the one before gets `FencedError`, whatever it believes it owns.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError, MessageSizeTooLargeError, ProducerFenced

from app.connection import Connection
from app.engine.lean import NO_HEADERS, ToWrite, fill
from app.errors import ApplyError, FencedError, NotWrittenError
from app.records import Outgoing
from app.refusals import refusal

#: Half of Kafka's default for the largest batch, and so of our topics' `max.message.bytes`.
MAX_BATCH_BYTES = 512 * 1024
#: A single record may be larger: a dead letter, in a topic that takes it.
MAX_REQUEST_BYTES = 8 * 1024 * 1024

#: How long a start, or a transaction, may take before it counts as failed.
TIMEOUT_SECONDS = 15.0
#: How long the transaction of a dead owner holds up readers if nobody takes over.
BROKER_TIMEOUT_MS = 20_000
#: How long the sender of a producer without connections may take to notice.
CLOSE_TIMEOUT_SECONDS = 0.2

Rows = Mapping[bytes, bytes | None]

#: Records by the topic and partition that they are for.
Sendings = Mapping[tuple[str, int], Sequence[ToWrite]]


class FencedProducer:
    """Writes the rows and records of one partition's batches, each batch whole or not at all."""

    def __init__(self, connection: Connection, transactional_id: str) -> None:
        self._transactional_id = transactional_id
        self._connection = connection
        self._kafka: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Fence any earlier owner; what it left uncommitted is aborted when this returns."""
        await self.close()
        self._kafka = AIOKafkaProducer(
            **self._connection.client(),
            transactional_id=self._transactional_id,
            transaction_timeout_ms=BROKER_TIMEOUT_MS,
            acks="all",
            max_batch_size=MAX_BATCH_BYTES,
            max_request_size=MAX_REQUEST_BYTES,
            request_timeout_ms=int(TIMEOUT_SECONDS * 1000),
        )
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._kafka.start()
                # Nothing goes to the broker yet, but it waits until the broker has fenced others.
                await self._kafka.begin_transaction()
        except (TimeoutError, KafkaError) as error:
            await self.close()
            why = refusal(self._connection, error) or type(error).__name__
            raise NotWrittenError(f"no transaction can begin ({why})") from None

    async def send(self, records: Sequence[Outgoing]) -> list[int]:
        """Send records within the transaction that is open; return their offsets.

        Raises as `commit` does.
        """
        async with self._transaction() as kafka:
            sending = [await _send_one(kafka, record) for record in records]
            return [sent.offset for sent in await asyncio.gather(*sending)]

    async def commit(self, changelog: str, partition: int, rows: Rows, sendings: Sendings) -> int:
        """Write rows to a changelog, and records to their topics; return the last row's offset.

        Raises `FencedError` if another owner has started since, `NotWrittenError` if the outcome
        may be unknown, and `ApplyError` if the broker will never take what is to be written.
        """
        async with self._transaction() as kafka:
            last = await _send(kafka, changelog, partition, rows, sendings)
            await kafka.commit_transaction()
            await kafka.begin_transaction()
            return last

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AIOKafkaProducer]:
        kafka = self._kafka
        if kafka is None:
            raise NotWrittenError("the producer is not started")
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                yield kafka
        # aiokafka tells so, or asserts it, if the transaction has failed before.
        except (TimeoutError, KafkaError, IllegalOperation, AssertionError) as error:
            why = refusal(self._connection, error) or type(error).__name__
            raise _meaning(kafka, error, why) from None

    async def close(self) -> None:
        """Disconnect at once; what is not committed never will be."""
        kafka, self._kafka = self._kafka, None
        if kafka is not None:
            await disconnect(kafka)


async def disconnect(kafka: AIOKafkaProducer) -> None:
    """End a producer at once, with what is under way."""
    # stop() would wait for a broker that may be gone; without its connections the sender ends.
    kafka._closed = True
    await kafka.client.close()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await kafka._sender.close()
    except (TimeoutError, KafkaError):
        pass
    await kafka.client.close()  # what was under way may have connected anew
    _forget_failures(kafka)


def _forget_failures(kafka: AIOKafkaProducer) -> None:
    # aiokafka fails futures that only it waits for; asyncio would log a traceback for each.
    batches = chain.from_iterable(kafka._message_accumulator._batches.values())
    futures = [batch._drain_waiter for batch in batches]
    if (transactions := kafka._txn_manager) is not None:
        futures.append(transactions._transaction_waiter)
    for future in futures:
        if future is not None and future.done() and not future.cancelled():
            future.exception()


async def _send(
    kafka: AIOKafkaProducer, changelog: str, partition: int, rows: Rows, sendings: Sendings
) -> int:
    changes: Iterator[ToWrite] = ((None, key, row, NO_HEADERS) for key, row in rows.items())
    batches = list(_batches(kafka, changes))
    logged = [await kafka.send_batch(batch, changelog, partition=partition) for batch in batches]
    others: list[Awaitable[Any]] = [
        await kafka.send_batch(batch, topic, partition=number)
        for (topic, number), records in sendings.items()
        for batch in _batches(kafka, iter(records))
    ]
    done = await asyncio.gather(*logged, *others)
    begins_at: int = done[len(batches) - 1].offset
    records: int = batches[-1].record_count()
    return begins_at + records - 1


def _batches(kafka: AIOKafkaProducer, records: Iterator[ToWrite]) -> Iterable[Any]:
    """Yield batches of records, each below the size limit."""
    record = next(records, None)
    while record is not None:
        batch = kafka.create_batch()
        record = fill(batch, record, records)
        yield batch


async def _send_one(kafka: AIOKafkaProducer, record: Outgoing) -> Awaitable[Any]:
    sent: Awaitable[Any] = await kafka.send(
        record.topic,
        record.value,
        record.key,
        record.partition,
        record.timestamp_ms,
        list(record.headers),
    )
    return sent


def _meaning(kafka: AIOKafkaProducer, error: Exception, why: str) -> Exception:
    """Return what a failed transaction means to the partition's owner."""
    if isinstance(error, ProducerFenced) or _ended_fenced(kafka):
        return FencedError("another worker owns the partition")
    if isinstance(error, MessageSizeTooLargeError):
        return ApplyError(f"a topic refuses a batch as too large: {error}")
    return NotWrittenError(f"a transaction may not be committed ({why})")


def _ended_fenced(kafka: AIOKafkaProducer) -> bool:
    # The sender may have met the fence before this transaction began.
    sender = kafka._sender.sender_task
    if sender is None or not sender.done() or sender.cancelled():
        return False
    return isinstance(sender.exception(), ProducerFenced)
