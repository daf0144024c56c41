"""Writes a log again, each record at its old offset.

Not every offset of a log has a record: transactions leave control records, retention and compaction
leave nothing. What is missing is filled: one offset behind a record by the commit of a transaction,
as it was; one offset alone by the commit of an empty transaction; more by transactions that are
aborted, which no reader sees; and the offsets before the log's start by records that are deleted
again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.types import TP

from app.config.connection import Connection
from app.domain.errors import TopicsError
from app.kafka.fast_records import NO_HEADERS, ToWrite, fill
from app.kafka.transactions import MAX_BATCH_BYTES, MAX_REQUEST_BYTES, FencedProducer
from app.ops.backup.files import Kept

#: Records that are written together, and the most in a transaction.
MAX_RUN = 5_000
MAX_FILLERS = 50_000
TRANSACTION_TIMEOUT_MS = 60_000
#: How long a control record may take to appear.
END_SECONDS = 15.0
LOOK_SECONDS = 0.005


class Run(NamedTuple):
    """Records at consecutive offsets, and how many offsets without a record follow them."""

    records: Sequence[Kept]
    gap: int


def runs(records: Iterable[Kept], start: int, end: int) -> Iterator[Run]:
    """Yield the runs of a log between two offsets. The first run may have no records."""
    following = start
    run: list[Kept] = []
    for record in records:
        if record.offset != following or len(run) == MAX_RUN:
            yield Run(run, record.offset - following)
            run = []
        run.append(record)
        following = record.offset + 1
    if run or following < end:
        yield Run(run, end - following)


class ExactWriter:
    """Writes one partition of an empty topic."""

    def __init__(self, connection: Connection, transactional_id: str, topic: str, partition: int):
        common = {
            **connection.client(),
            "acks": "all",
            "max_batch_size": MAX_BATCH_BYTES,
            "max_request_size": MAX_REQUEST_BYTES,
        }
        self._plain = AIOKafkaProducer(**common, enable_idempotence=True)
        self._transactional = AIOKafkaProducer(
            **common,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        )
        self._empty = FencedProducer(connection, f"{transactional_id}-empty", [topic])
        self._consumer = AIOKafkaConsumer(**connection.client())
        self._held = AsyncExitStack()
        self._tp = TopicPartition(topic, partition)
        #: The offset of the next record.
        self.at = 0
        #: Whether the last control record may not be written yet.
        self._is_ending = False

    async def __aenter__(self) -> "ExactWriter":
        """Connect."""
        async with AsyncExitStack() as held:
            for client in (self._plain, self._transactional, self._consumer):
                await held.enter_async_context(client)
            self._held = held.pop_all()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        """Disconnect."""
        await self._empty.close()
        await self._held.__aexit__(*exc)

    async def begin(self, start: int, timestamp: int) -> None:
        """Fill the offsets before the log's start. These records are deleted later."""
        while self.at < start:
            await self._write(_fillers(min(start - self.at, MAX_FILLERS), timestamp))

    async def write(self, run: Run) -> None:
        """Write a run, and the offsets without records behind it."""
        records = [record.to_write() for record in run.records]
        timestamp = run.records[-1].timestamp if run.records else 0
        gap = run.gap
        if records and gap in (0, 2):
            await self._write(records)
        elif records:
            await self._transact(records, commits=True)
            gap -= 1
        if gap == 1:
            await self._leave_one_out()
        elif gap:
            await self._transact(_fillers(gap - 1, timestamp), commits=False)

    async def end(self) -> None:
        """Wait until everything is written; raise `TopicsError` if another program writes, too."""
        async with asyncio.timeout(END_SECONDS):
            while (end := (await self._consumer.end_offsets([self._tp]))[self._tp]) < self.at:
                await asyncio.sleep(LOOK_SECONDS)
        self._require(end == self.at)
        self._is_ending = False

    async def _write(self, records: Iterable[ToWrite]) -> None:
        if self._is_ending:
            await self.end()
        await self._send(self._plain, records)

    async def _transact(self, records: Iterable[ToWrite], *, commits: bool) -> None:
        # It waits until the transaction before is over: the broker makes sure of that.
        await self._transactional.begin_transaction()
        await self._send(self._transactional, records)
        if commits:
            await self._transactional.commit_transaction()
        else:
            await self._transactional.abort_transaction()
        self.at += 1
        self._is_ending = True

    async def _leave_one_out(self) -> None:
        # The broker orders the transactions of one producer only.
        if self._is_ending:
            await self.end()
        await self._empty.start()
        await self._empty.write({TP(*self._tp): []})
        self.at += 1
        await self.end()

    async def _send(self, producer: AIOKafkaProducer, records: Iterable[ToWrite]) -> None:
        """Send records, and check that each has its old offset."""
        topic, partition = self._tp
        sent = [each async for each in sending(producer, topic, partition, records)]
        for count, written in sent:
            self._require((await written).offset == self.at)
            self.at += count

    def _require(self, is_right: bool) -> None:
        if not is_right:
            raise TopicsError(f"another program writes to topic {self._tp.topic}")


async def sending(
    producer: AIOKafkaProducer, topic: str, partition: int, records: Iterable[ToWrite]
) -> AsyncIterator[tuple[int, Awaitable[Any]]]:
    """Send records in batches; yield the size of each batch, and a future of its offset."""
    left = iter(records)
    record = next(left, None)
    while record is not None:
        batch = producer.create_batch()
        record = fill(batch, record, left)
        count = batch.record_count()
        yield count, await producer.send_batch(batch, topic, partition=partition)


def _fillers(count: int, timestamp: int) -> Iterator[ToWrite]:
    return ((timestamp, None, b"", NO_HEADERS) for _ in range(count))


async def write_plainly(
    producer: AIOKafkaProducer, topic: str, partition: int, records: Iterable[ToWrite]
) -> None:
    """Write records of a topic whose offsets no client knows."""
    left = iter(records)
    while some := list(islice(left, MAX_RUN)):
        sent = [written async for _, written in sending(producer, topic, partition, some)]
        await asyncio.gather(*sent)
