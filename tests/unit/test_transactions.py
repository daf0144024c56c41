"""Transactions: their steps in order, what each error means, and batches below the limit."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP

from app.config.connection import Connection
from app.domain.errors import FencedError, NotWrittenError, ReplacedError, TooLargeError
from app.kafka import protocol, transactions
from app.kafka.cluster import DATA, GROUP, TRANSACTION
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.protocol import ProduceAnswer, Produced, ProducerIdentity
from app.kafka.transactions import (
    COMPRESSIONS,
    MAX_BATCH_BYTES,
    Member,
    ProducerFencedError,
    Sendings,
    TransactionalProducer,
    encode_batches,
)
from app.system import retries

ONE, TWO, FAR = TP("one", 0), TP("one", 1), TP("two", 0)
MEMBER = Member("group", 4, "member", "worker")
PRODUCER = ProducerIdentity(7, 1)
NOT_LEADER, DUPLICATE, STORAGE_ERROR = 6, 46, 56

NAMES = {
    protocol.AddPartitionsToTxn: "add partitions",
    protocol.AddOffsetsToTxn: "add offsets",
    protocol.EndTxn: "end",
    protocol.TxnOffsetCommit: "offsets",
    protocol.Produce: "produce",
}


@dataclass
class FakeCluster:
    """Answers the steps of transactions, and notes them."""

    events: list[str] = field(default_factory=list)
    #: Errors of steps to come, by name.
    errors: dict[str, list[int]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    forgotten: list[tuple[int, str]] = field(default_factory=list)
    ends: dict[TP, int] = field(default_factory=dict)
    #: What was sent: broker, partition and batch.
    sent: list[tuple[int, TP, bytes]] = field(default_factory=list)
    epoch: int = 0
    refreshes: int = 0
    groups: list[Any] = field(default_factory=list)
    #: The requests to commit offsets, packed.
    members: list[bytes] = field(default_factory=list)

    async def refresh(self) -> None:
        """Note it."""
        self.refreshes += 1

    async def require_leaders(self, partitions: Iterable[TP]) -> None:
        """Know all."""

    def leader(self, tp: TP) -> int:
        """Return the broker."""
        return 2 if tp == FAR else 1

    def forget_coordinator(self, kind: int, key: str) -> None:
        """Note it."""
        self.forgotten.append((kind, key))

    async def coordinate(self, kind: int, key: str, call: Any, group: Any = None) -> Any:
        """Answer as a coordinator."""
        if isinstance(call, InitProducerIdRequest):
            assert (kind, key) == (TRANSACTION, "id")
            self.epoch += 1
            error = self._begin("start")
            await asyncio.sleep(0)
            return SimpleNamespace(error_code=error, producer_id=7, producer_epoch=self.epoch)
        if call.struct is protocol.DescribeTransactions:
            return SimpleNamespace(transactions=[(0, key, "Empty", 0, 0, 7, self.epoch, [], {})])
        name = NAMES[call.struct]
        assert (kind, key) == ((GROUP, "group") if name == "offsets" else (TRANSACTION, "id"))
        if name == "offsets":
            self.groups.append(group)
            self.members.append(call.arguments[0])
        error = self._begin(name)
        await asyncio.sleep(0)
        return SimpleNamespace(error_code=error)

    async def send(self, node: int, call: Any, group: Any = None) -> ProduceAnswer:
        """Take batches."""
        self._begin("produce")
        await asyncio.sleep(0)
        answers = []
        for tp, batch in _batches_of(call.arguments[0]):
            self.sent.append((node, tp, batch))
            count = int.from_bytes(batch[57:61], "big")
            errors = self.errors.get(f"produce {tp.topic}", [])
            error = errors.pop(0) if errors else 0
            answers.append(Produced(tp, error, -1 if error else self.ends.get(tp, 0)))
            self.ends[tp] = self.ends.get(tp, 0) + count
        return ProduceAnswer(answers)

    def _begin(self, name: str) -> int:
        self.events.append(name)
        if name in self.failures:
            raise self.failures[name]
        errors = self.errors.get(name, [])
        return errors.pop(0) if errors else 0


def _batches_of(packed: bytes) -> Iterable[tuple[TP, bytes]]:
    request = ProduceRequest_v7.decode(BytesIO(packed))
    for topic, partitions in request.__dict__["topics"]:
        for number, batch in partitions:
            yield TP(topic, number), batch


def rows(*keys: bytes, value: bytes = b"row") -> list[ToWrite]:
    """Return records."""
    return [(None, key, value, NO_HEADERS) for key in keys]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeCluster, TransactionalProducer]:
    """Return brokers, and a producer that was started."""
    monkeypatch.setattr(retries, "ENDING", replace(retries.ENDING, longest_seconds=0.0))
    cluster = FakeCluster()
    producer = TransactionalProducer(cast(Any, cluster), Connection("nowhere:1"), "id", 5_000)
    await producer.start()
    cluster.events.clear()
    return cluster, producer


World = tuple[FakeCluster, TransactionalProducer]


async def commit(
    producer: TransactionalProducer,
    member: Member | None = MEMBER,
    sendings: Sendings | None = None,
) -> Mapping[TP, int]:
    """Commit some records."""
    given = {ONE: rows(b"a", b"b")} if sendings is None else dict(sendings)
    written = await producer.commit(member, given, {TP("s", 0): 5})
    return {tp: span[-1] for tp, span in written.items()}


# -- the steps


async def test_a_transaction_is_joined_then_written_with_its_offsets_and_then_ended(
    world: World,
) -> None:
    cluster, producer = world
    sendings = {ONE: rows(b"a", b"b"), TWO: rows(b"c"), FAR: rows(b"d", b"e", b"f")}
    assert await commit(producer, MEMBER, sendings) == {ONE: 1, TWO: 0, FAR: 2}
    assert cluster.events[:2] == ["add partitions", "add offsets"]
    assert sorted(cluster.events[2:-1]) == ["offsets", "produce", "produce"]
    assert cluster.events[-1] == "end"
    assert {(node, tp) for node, tp, _ in cluster.sent} == {(1, ONE), (1, TWO), (2, FAR)}
    # Offsets go behind the records, where both go to the same broker.
    assert cluster.groups == [DATA]
    # In the name of a generation: by that the broker knows who may not write any more.
    name = (MEMBER.generation, MEMBER.member_id, MEMBER.instance_id)
    offsets = protocol.commit_offsets("id", PRODUCER, MEMBER.group, name, {TP("s", 0): 5})
    assert cluster.members == [offsets.arguments[0]]
    assert producer.is_started


async def test_a_transaction_of_nobody_in_a_group_commits_no_offsets(world: World) -> None:
    cluster, producer = world
    await commit(producer, None)
    assert cluster.events == ["add partitions", "produce", "end"]


async def test_sequences_go_on_from_transaction_to_transaction_and_begin_anew_with_a_producer(
    world: World,
) -> None:
    cluster, producer = world
    await commit(producer)
    await commit(producer, MEMBER, {ONE: rows(b"c"), TWO: rows(b"d")})
    await producer.start()
    await commit(producer)
    found = [
        (tp, int.from_bytes(batch[51:53], "big"), int.from_bytes(batch[53:57], "big"))
        for _, tp, batch in cluster.sent
    ]
    assert found == [(ONE, 1, 0), (ONE, 1, 2), (TWO, 1, 0), (ONE, 2, 0)]


async def test_large_partitions_are_sent_in_rounds_of_one_batch_each(world: World) -> None:
    cluster, producer = world
    big = rows(*(b"%d" % n for n in range(6)), value=bytes(MAX_BATCH_BYTES // 2 - 100))
    written = await commit(producer, MEMBER, {ONE: big, TWO: rows(b"x")})
    assert written == {ONE: 5, TWO: 0}
    assert [tp for _, tp, _ in cluster.sent] == [ONE, TWO, ONE, ONE, ONE, ONE, ONE][
        : len(cluster.sent)
    ]
    assert all(len(batch) <= MAX_BATCH_BYTES for _, _, batch in cluster.sent)


async def test_what_is_sent_ahead_begins_the_transaction_and_tells_its_offsets(
    world: World,
) -> None:
    cluster, producer = world
    cluster.ends[FAR] = 40
    assert await producer.send(MEMBER, {FAR: rows(b"a", b"b")}, [TWO]) == {FAR: range(40, 42)}
    assert cluster.events == ["add partitions", "add offsets", "produce"]
    cluster.events.clear()
    # What was named as later is not added once more.
    assert await producer.send(MEMBER, {TWO: rows(b"c")}) == {TWO: range(1)}
    assert cluster.events == ["produce"]
    cluster.events.clear()
    assert await commit(producer, MEMBER, {ONE: rows(b"d"), FAR: rows(b"e")}) == {ONE: 0, FAR: 42}
    assert cluster.events[0] == "add partitions"
    assert sorted(cluster.events[1:-1]) == ["offsets", "produce", "produce"]
    assert cluster.events[-1] == "end"
    cluster.events.clear()
    await commit(producer)
    assert cluster.events[:2] == ["add partitions", "add offsets"]


async def test_no_other_transaction_begins_while_one_is_under_way(world: World) -> None:
    """Who gives one up must start the producer anew: else its records would count later."""
    _, producer = world
    await producer.send(MEMBER, {ONE: rows(b"a")})
    assert not producer.is_started
    await producer.start()
    assert producer.is_started


async def test_what_was_left_open_is_ended_when_a_worker_stops(world: World) -> None:
    cluster, producer = world
    await producer.end_open()
    assert cluster.events == []
    await producer.send(MEMBER, {ONE: rows(b"a")})
    await producer.end_open()
    assert cluster.events[-1] == "start"
    cluster.failures["start"] = TimeoutError()
    await producer.send(MEMBER, {ONE: rows(b"a")})
    await producer.end_open()
    assert not producer.is_started


async def test_what_fails_ahead_leaves_the_producer_without_its_identity(world: World) -> None:
    cluster, producer = world
    cluster.failures["produce"] = TimeoutError()
    with pytest.raises(NotWrittenError):
        await producer.send(MEMBER, {ONE: rows(b"a")})
    with pytest.raises(NotWrittenError, match="not started"):
        await commit(producer)


async def test_while_the_one_before_is_being_ended_it_is_asked_again(world: World) -> None:
    cluster, producer = world
    cluster.errors["add partitions"] = [protocol.CONCURRENT_TRANSACTIONS] * 2
    await commit(producer, None)
    assert cluster.events == ["add partitions"] * 3 + ["produce", "end"]
    cluster.errors["start"] = [protocol.CONCURRENT_TRANSACTIONS]
    await producer.start()
    assert producer.is_started


# -- what fails


async def test_a_batch_whose_leader_has_moved_goes_to_the_new_one(world: World) -> None:
    cluster, producer = world
    cluster.errors["produce one"] = [NOT_LEADER]
    refreshes, produced = cluster.refreshes, cluster.events.count("produce")
    assert await commit(producer)
    assert producer.is_started
    assert cluster.refreshes == refreshes + 1
    assert cluster.events.count("produce") > produced + 1


@pytest.mark.parametrize("step", ["add partitions", "add offsets", "offsets", "end", "produce one"])
@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (protocol.INVALID_PRODUCER_EPOCH, ProducerFencedError),
        (protocol.PRODUCER_FENCED, ProducerFencedError),
        (STORAGE_ERROR, NotWrittenError),
        (DUPLICATE, NotWrittenError),
    ],
)
async def test_whatever_fails_the_producer_must_start_anew(
    world: World, step: str, error: int, meaning: type[Exception]
) -> None:
    cluster, producer = world
    cluster.errors[step] = [error]
    with pytest.raises(meaning):
        await commit(producer)
    assert not producer.is_started
    with pytest.raises(NotWrittenError, match="not started"):
        await commit(producer)
    assert ("end" in cluster.events) == (step == "end")
    refreshes = cluster.refreshes
    await producer.start()
    # A partition may have another leader now.
    assert cluster.refreshes == refreshes + 1
    assert await commit(producer)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (protocol.ILLEGAL_GENERATION, FencedError),
        (protocol.UNKNOWN_MEMBER_ID, FencedError),
        (protocol.FENCED_INSTANCE_ID, ReplacedError),
    ],
)
async def test_a_group_that_refuses_a_member_lets_nothing_be_committed(
    world: World, error: int, meaning: type[Exception]
) -> None:
    cluster, producer = world
    cluster.errors["offsets"] = [error]
    with pytest.raises(meaning):
        await commit(producer)
    assert "end" not in cluster.events
    assert not producer.is_started


@pytest.mark.parametrize("error", [protocol.MESSAGE_TOO_LARGE, protocol.RECORD_LIST_TOO_LARGE])
async def test_a_batch_that_is_too_large_is_told_by_its_place(world: World, error: int) -> None:
    cluster, producer = world
    cluster.errors["produce two"] = [error]
    with pytest.raises(TooLargeError, match="two, partition 0"):
        await commit(producer, MEMBER, {ONE: rows(b"a"), FAR: rows(b"b")})
    assert "end" not in cluster.events


@pytest.mark.parametrize("step", ["start", "add partitions", "produce", "offsets", "end"])
@pytest.mark.parametrize(
    "failure", [KafkaConnectionError("gone"), TimeoutError(), OSError("reset")]
)
async def test_an_answer_that_does_not_come_leaves_the_outcome_unknown(
    world: World, step: str, failure: Exception
) -> None:
    cluster, producer = world
    cluster.failures[step] = failure
    trying = producer.start() if step == "start" else commit(producer)
    with pytest.raises(NotWrittenError):
        await trying
    assert not producer.is_started


async def test_a_transaction_that_takes_too_long_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, producer = world
    monkeypatch.setattr(transactions, "TIMEOUT_SECONDS", 0.02)
    cluster.errors["add partitions"] = [protocol.CONCURRENT_TRANSACTIONS] * 100_000
    with pytest.raises(NotWrittenError, match="TimeoutError"):
        await commit(producer)
    assert not producer.is_started


@pytest.mark.parametrize(
    ("step", "forgotten"),
    [
        ("add partitions", (TRANSACTION, "id")),
        ("end", (TRANSACTION, "id")),
        ("offsets", (GROUP, "group")),
    ],
)
async def test_a_coordinator_that_moved_is_looked_up_anew(
    world: World, step: str, forgotten: tuple[int, str]
) -> None:
    """And the producer starts anew: the new one may have left the transaction before open."""
    cluster, producer = world
    cluster.errors[step] = [protocol.NOT_COORDINATOR]
    with pytest.raises(NotWrittenError):
        await commit(producer)
    assert forgotten in cluster.forgotten
    assert not producer.is_started


# -- batches


def encoded(
    records: list[ToWrite], sequence: int = 0, compression: str = "none"
) -> list[tuple[int, list[Any]]]:
    """Return the batches of records: their first sequence and their records."""
    found = []
    for batch, count in encode_batches(records, PRODUCER, sequence, COMPRESSIONS[compression]):
        parsed = list(MemoryRecords(bytes(batch)).next_batch())
        assert len(parsed) == count
        found.append((int.from_bytes(batch[53:57], "big"), parsed))
    return found


@pytest.mark.parametrize("compression", list(COMPRESSIONS))
def test_batches_hold_all_records_in_order_as_they_were(compression: str) -> None:
    records = rows(*(b"k%d" % n for n in range(50)), value=b"x" * 30_000)
    records += [(None, b"gone", None, NO_HEADERS)]
    records += [(1_700_000_000_000, None, b"z", [("name", b"value")])]
    batches = encoded(records, compression=compression)
    flat = [record for _, parsed in batches for record in parsed]
    assert [(r.key, r.value, list(r.headers)) for r in flat] == [row[1:] for row in records]
    assert flat[-1].timestamp == 1_700_000_000_000
    assert len(batches) > 1 or compression != "none"


def test_a_batch_is_below_the_limit_unless_one_record_is_larger() -> None:
    small = rows(*(b"%d" % n for n in range(300)), value=bytes(5_000))
    assert all(len(b) <= MAX_BATCH_BYTES for b, _ in encode_batches(small, PRODUCER, 0))
    mixed = [*rows(b"a"), *rows(b"huge", value=bytes(2 * MAX_BATCH_BYTES)), *rows(b"b")]
    assert [[r.key for r in parsed] for _, parsed in encoded(mixed)] == [
        [b"a"],
        [b"huge"],
        [b"b"],
    ]


def test_no_records_make_no_batch() -> None:
    assert encoded([]) == []


def test_sequences_count_records_and_begin_again_at_their_end() -> None:
    records = rows(*(b"%d" % n for n in range(4)), value=bytes(MAX_BATCH_BYTES - 1_000))
    assert [sequence for sequence, _ in encoded(records, 2**31 - 2)] == [2**31 - 2, 2**31 - 1, 0, 1]


def test_batches_say_who_has_written_them() -> None:
    def who(*, is_transactional: bool) -> tuple[int, int, bool]:
        ((batch, _),) = encode_batches(rows(b"a"), PRODUCER, 0, is_transactional=is_transactional)
        numbers = [int.from_bytes(batch[a:b], "big") for a, b in ((43, 51), (51, 53), (21, 23))]
        return numbers[0], numbers[1], bool(numbers[2] & 0x10)

    assert who(is_transactional=True) == (*PRODUCER, True)
    assert who(is_transactional=False) == (*PRODUCER, False)
