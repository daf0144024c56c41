"""Transactions: all of one is visible or nothing, and never after another owner has begun.

A worker has one transactional id. A new producer of the id ends the open transaction of the old
one. The generation of the consumer group fences workers (KIP-447): each transaction commits offsets
of the sources as a member of a generation, and the broker refuses members of an older one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from aiokafka.errors import KafkaError, for_code
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from faust.types import TP

from app.config.connection import Connection
from app.domain.errors import FencedError, NotWrittenError, ReplacedError, TooLargeError
from app.domain.records import Outgoing
from app.kafka import protocol
from app.kafka.client_errors import refusal
from app.kafka.cluster import DATA, GROUP, Cluster
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.protocol import ProducerIdentity
from app.kafka.transactional_ids import COORDINATOR_MOVES, TransactionalId
from app.system import retries

#: Half of Kafka's default for the largest batch, which is the `max.message.bytes` of our topics.
MAX_BATCH_BYTES = 512 * 1024
#: A single record may be larger: a dead letter, in a topic that accepts it.
MAX_REQUEST_BYTES = 8 * 1024 * 1024

#: How long a start, or one transaction, may take.
TIMEOUT_SECONDS = 15.0
#: How long a worker that stops tries to end its open transaction.
END_SECONDS = 3.0
#: After this time the broker aborts an open transaction that belongs to no group.
BROKER_TIMEOUT_MS = 20_000

Rows = Mapping[bytes, bytes | None]

#: Records by their target partition.
Sendings = Mapping[TP, Sequence[ToWrite]]

#: A batch as it is sent, and the number of its records.
Encoded = tuple[bytearray, int]

#: Compression by the value of the setting.
COMPRESSIONS = {
    "none": DefaultRecordBatch.CODEC_NONE,
    "lz4": DefaultRecordBatch.CODEC_LZ4,
    "zstd": DefaultRecordBatch.CODEC_ZSTD,
}

_FENCED = (protocol.ILLEGAL_GENERATION, protocol.UNKNOWN_MEMBER_ID)
_PRODUCER_FENCED = (protocol.INVALID_PRODUCER_EPOCH, protocol.PRODUCER_FENCED)
_LEADER_MOVES = (
    protocol.UNKNOWN_TOPIC_OR_PARTITION,
    protocol.LEADER_NOT_AVAILABLE,
    protocol.NOT_LEADER,
)
_TOO_LARGE = (protocol.MESSAGE_TOO_LARGE, protocol.RECORD_LIST_TOO_LARGE)


class ProducerFencedError(NotWrittenError):
    """Another producer has started under the transactional id, or the broker has forgotten it."""


@dataclass(frozen=True, slots=True)
class Member:
    """The membership of this worker in its group, as of the last assignment."""

    group: str
    generation: int
    member_id: str
    instance_id: str | None


class TransactionalProducer:
    """Writes transactions under one transactional id, one after the other."""

    def __init__(
        self,
        cluster: Cluster,
        connection: Connection,
        transactional_id: str,
        timeout_ms: int,
        compression: int = DefaultRecordBatch.CODEC_NONE,
    ) -> None:
        self._id = TransactionalId(cluster, transactional_id, timeout_ms)
        self._cluster = cluster
        self._connection = connection
        self._timeout_ms = timeout_ms
        self._producer: ProducerIdentity | None = None
        #: The partitions of the open transaction, and whether it commits offsets. No partitions: no
        #: transaction is open.
        self._joined: set[TP] = set()
        self._has_offsets = False
        #: The next sequence number of each partition.
        self._sequences: dict[TP, int] = {}
        self._compression = compression

    async def start(self) -> None:
        """End the open transaction of the id; raise `NotWrittenError` if that fails."""
        self._producer = None
        self._sequences.clear()
        with _told(self._connection, "no transaction can begin"):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                # The failure may have been a partition whose leader has changed.
                await self._cluster.refresh()
                self._producer = await self._id.next_identity()
        self._end()

    @property
    def is_started(self) -> bool:
        """Whether a transaction may begin."""
        return self._producer is not None and not self._joined

    async def send(
        self, member: Member | None, sendings: Sendings, later: Iterable[TP] = ()
    ) -> Mapping[TP, range]:
        """Write records of a transaction before the others; return their offsets by partition.

        The first call begins the transaction; ``later`` are partitions that it will also write.
        Offsets between the first and the last may be of other producers. Raises what `commit`
        raises.
        """
        async with self._at_work() as producer:
            await self._join(producer, member, [*sendings, *later])
            return await self._send(producer, sendings)

    async def commit(
        self, member: Member | None, sendings: Sendings, offsets: Mapping[TP, int]
    ) -> Mapping[TP, range]:
        """Write the rest of a transaction, and end it; return where the records of this call are.

        ``offsets`` has the next offset of each source. Raises `FencedError` if the group's
        generation is over, `ReplacedError` if another worker runs under this one's name,
        `TooLargeError` if the broker does not take a batch, and `NotWrittenError` if the outcome
        may be unknown. After any of them the producer must be restarted.
        """
        async with self._at_work() as producer:
            await self._join(producer, member, sendings)
            sends: list[Any] = [self._send(producer, sendings)]
            if member is not None:
                # It uses the same connection to that broker, so the requests come one after the
                # other. A broker that gets two questions about one transaction at once refuses one
                # (AddPartitionsToTxnManager in Kafka's sources).
                sends.append(self._commit_offsets(producer, member, offsets))
            written, *_ = await asyncio.gather(*sends)
            end = protocol.end_transaction(self._id.name, producer, is_commit=True)
            self._require((await self._id.coordinate(end)).error_code)
            self._end()
            return cast("Mapping[TP, range]", written)

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[ProducerIdentity]:
        """Yield the identity. An error in the block discards it."""
        if self._producer is None:
            raise NotWrittenError("the producer is not started")
        producer, self._producer = self._producer, None
        with _told(self._connection, "a transaction may not be committed"):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                yield producer
        self._producer = producer

    async def end_open(self) -> None:
        """End an open transaction, because it would hold up readers."""
        if self._joined:
            with suppress(NotWrittenError, TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self.start()

    def _end(self) -> None:
        self._joined.clear()
        self._has_offsets = False

    async def _join(
        self, producer: ProducerIdentity, member: Member | None, partitions: Iterable[TP]
    ) -> None:
        """Add partitions to the transaction. The first ones begin it."""
        if not self._joined:
            await self._id.end_unseen()
        new = {tp: None for tp in partitions if tp not in self._joined}
        self._joined.update(new)
        # They are sent at once, and answered in their order.
        asked = [protocol.add_partitions(self._id.name, producer, new)] if new else []
        if member is not None and not self._has_offsets:
            self._has_offsets = True
            asked.append(protocol.add_offsets(self._id.name, producer, member.group))
        await asyncio.gather(*map(self._ask_to_join, asked))

    async def _ask_to_join(self, request: Any) -> None:
        self._require((await self._id.when_ended(request)).error_code)

    # -- the steps

    async def _commit_offsets(
        self, producer: ProducerIdentity, member: Member, offsets: Mapping[TP, int]
    ) -> None:
        call = protocol.commit_offsets(
            self._id.name,
            producer,
            member.group,
            (member.generation, member.member_id, member.instance_id),
            offsets,
        )
        answer = await self._cluster.coordinate(GROUP, member.group, call, DATA)
        if answer.error_code in COORDINATOR_MOVES:
            self._cluster.forget_coordinator(GROUP, member.group)
        self._require(answer.error_code)

    async def _send(self, producer: ProducerIdentity, sendings: Sendings) -> dict[TP, range]:
        """Send records; return the offsets of each partition."""
        rounds: list[dict[TP, Encoded]] = []
        for tp, records in sendings.items():
            for number, batch in enumerate(self._batches(producer, tp, records)):
                if number == len(rounds):
                    rounds.append({})
                # A request takes one batch for each partition.
                rounds[number][tp] = batch
        spans: dict[TP, range] = {}
        for batches in rounds:
            left = batches
            while left := await self._produce(left, spans):
                # The leaders have changed. Send the same batches to the new leaders.
                await asyncio.sleep(retries.NEW_LEADER.first_seconds)
                await self._cluster.refresh()
        return spans

    async def _produce(
        self, batches: Mapping[TP, "Encoded"], spans: dict[TP, range]
    ) -> dict[TP, Encoded]:
        """Send batches to the leaders; return those whose leader has changed."""
        await self._cluster.require_leaders(batches)
        by_leader: dict[int, dict[TP, Encoded]] = {}
        for tp, batch in batches.items():
            by_leader.setdefault(self._cluster.leader(tp), {})[tp] = batch
        calls = (
            self._cluster.send(
                leader,
                protocol.produce(
                    self._id.name,
                    self._timeout_ms,
                    ((tp, batch) for tp, (batch, _) in some.items()),
                ),
            )
            for leader, some in by_leader.items()
        )
        left = {}
        for answer in await asyncio.gather(*calls):
            for tp, error_code, base_offset in answer.partitions:
                if error_code in _LEADER_MOVES:
                    left[tp] = batches[tp]
                    continue
                if error_code in _TOO_LARGE:
                    raise TooLargeError(
                        f"{tp.topic}, partition {tp.partition}: the broker refuses a batch as too "
                        "large"
                    )
                self._require(error_code)
                first = spans[tp].start if tp in spans else base_offset
                spans[tp] = range(first, base_offset + batches[tp][1])
        return left

    def _batches(
        self, producer: ProducerIdentity, tp: TP, records: Sequence[ToWrite]
    ) -> Iterator[tuple[bytearray, int]]:
        sequence = self._sequences.get(tp, 0)
        for batch, count in encode_batches(records, producer, sequence, self._compression):
            sequence = (sequence + count) % protocol.SEQUENCES
            yield batch, count
        self._sequences[tp] = sequence

    def _require(self, error_code: int) -> None:
        if not error_code:
            return
        if error_code in _FENCED:
            raise FencedError("the generation of the group that this worker knows is over")
        if error_code == protocol.FENCED_INSTANCE_ID:
            raise ReplacedError("another worker runs under the same WORKER_ID and address")
        if error_code in _PRODUCER_FENCED:
            raise ProducerFencedError("another producer has started under the transactional id")
        raise for_code(error_code)()


class _told:  # noqa: N801  # it reads as a function
    """Turns errors of aiokafka into `NotWrittenError`."""

    def __init__(self, connection: Connection, what: str) -> None:
        self._connection = connection
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError | KafkaError | OSError):
            why = refusal(self._connection, error) or type(error).__name__
            raise NotWrittenError(f"{self._what} ({why})") from None


def to_write(record: Outgoing) -> ToWrite:
    """Return a record in the form that batches take."""
    return record.timestamp_ms, record.key, record.value, list(record.headers)


def encode_batches(
    records: Iterable[ToWrite],
    producer: ProducerIdentity,
    sequence: int,
    compression: int = DefaultRecordBatch.CODEC_NONE,
    *,
    is_transactional: bool = True,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Iterator[tuple[bytearray, int]]:
    """Yield batches below a size, each with the number of its records.

    A batch takes one record of any size.
    """
    waiting = iter(records)
    record = next(waiting, None)
    while record is not None:
        builder = DefaultRecordBatchBuilder(
            2, compression, int(is_transactional), *producer, sequence, max_bytes
        )
        append, count = builder.append, 0
        while record is not None and append(count, *record) is not None:
            count += 1
            record = next(waiting, None)
        yield builder.build(), count
        sequence = (sequence + count) % protocol.SEQUENCES


class FencedProducer:
    """Writes records for a command, in whole transactions, until another producer fences it."""

    def __init__(
        self, connection: Connection, transactional_id: str, topics: Iterable[str]
    ) -> None:
        self._connection = connection
        self._id = transactional_id
        self._topics = list(topics)
        self._cluster: Cluster | None = None
        self._producer: TransactionalProducer | None = None

    async def start(self) -> None:
        """Fence earlier producers of this id. Their open transactions are aborted."""
        await self.close()
        self._cluster = Cluster(self._connection, self._topics)
        self._producer = TransactionalProducer(
            self._cluster, self._connection, self._id, BROKER_TIMEOUT_MS
        )
        with _told(self._connection, "no transaction can begin"):
            await self._cluster.start()
        await self._producer.start()

    async def commit(self, topic: str, partition: int, rows: Rows) -> int:
        """Write rows to a partition of a topic; return the offset of the last one.

        Raises `FencedError` if another producer has started since.
        """
        written = [(None, key, row, NO_HEADERS) for key, row in rows.items()]
        tp = TP(topic, partition)
        return (await self.write({tp: written}))[tp][-1]

    async def write(self, sendings: Sendings) -> Mapping[TP, range]:
        """Write records; return their offsets by partition.

        A partition without records gets the control record alone. Raises `FencedError` if another
        producer has started since.
        """
        if self._producer is None:
            raise NotWrittenError("the producer is not started")
        try:
            return await self._producer.commit(None, sendings, {})
        except ProducerFencedError as error:
            raise FencedError(str(error)) from None

    async def close(self) -> None:
        """Disconnect. An open transaction will never be committed."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.close()
