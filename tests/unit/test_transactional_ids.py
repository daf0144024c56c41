"""Transactional ids: what their coordinators left open is ended as it was decided."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import TransactionalIdAuthorizationFailed
from aiokafka.protocol.transaction import InitProducerIdRequest
from faust.types import TP

from app.domain.errors import UndecidedError
from app.kafka import protocol
from app.kafka.cluster import NO_LEADER, TRANSACTION
from app.kafka.protocol import ProducerIdentity
from app.kafka.transactional_ids import OFFSETS_TOPIC, TransactionalId
from app.system import retries

NEAR, FAR, OFFSETS = TP("users-changelog", 0), TP("users-changelog", 1), TP(OFFSETS_TOPIC, 7)
MINE, OTHER = 7, 8
NOT_AUTHORIZED, NOT_LEADER = 53, 6


@dataclass
class FakeCluster:
    """A coordinator, and leaders of partitions in which transactions are open."""

    #: What the coordinator answers, one after the other; the last one counts for ever.
    states: list[str | int] = field(default_factory=lambda: ["Empty"])
    epoch: int = 3
    #: Where the transaction writes that is going on.
    partitions: list[TP] = field(default_factory=list)
    on_begin: Callable[[], None] = lambda: None
    begin_errors: list[int] = field(default_factory=list)
    leaders: dict[TP, int] = field(default_factory=lambda: {NEAR: 1, FAR: 2, OFFSETS: 2})
    #: Producer and epoch of what is open.
    open: dict[TP, list[tuple[int, int]]] = field(default_factory=dict)
    marker_error: int = 0
    describe_errors: dict[TP, int] = field(default_factory=dict)
    markers: list[tuple[TP, int, int, bool, int]] = field(default_factory=list)
    forgotten: list[tuple[int, str]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    async def coordinate(self, kind: int, key: str, call: Any) -> Any:
        """Answer as a coordinator."""
        assert (kind, key) == (TRANSACTION, "id")
        if isinstance(call, InitProducerIdRequest):
            self.events.append("begin")
            self.on_begin()
            error = self.begin_errors.pop(0) if self.begin_errors else 0
            return SimpleNamespace(
                error_code=error, producer_id=MINE, producer_epoch=self.epoch + 1
            )
        assert call.struct is protocol.DescribeTransactions
        self.events.append("ask")
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        error, name = (state, "") if isinstance(state, int) else (0, state)
        topics: list[Any] = [(tp.topic, [tp.partition], {}) for tp in self.partitions]
        found: Any = (error, "id", name, 0, 0, MINE, self.epoch, topics, {})
        return SimpleNamespace(transactions=[found])

    def forget_coordinator(self, kind: int, key: str) -> None:
        """Note it."""
        self.forgotten.append((kind, key))

    async def places(self, *more: str) -> Mapping[TP, int]:
        """Return who leads what."""
        assert more == (OFFSETS_TOPIC,)
        return dict(self.leaders)

    def leader(self, tp: TP) -> int:
        """Return who leads a partition."""
        assert self.leaders[tp] != NO_LEADER
        return self.leaders[tp]

    async def send(self, node: int, call: Any) -> Any:
        """Answer as a leader."""
        if call.struct is protocol.WriteTxnMarkers:
            ((producer, epoch, committed, topics, coordinator, _),) = call.arguments[0]
            ((topic, (number,), _),) = topics
            tp = TP(topic, number)
            assert self.leaders[tp] == node
            if not self.marker_error:
                self.markers.append((tp, producer, epoch, committed, coordinator))
                self.open.pop(tp)
            told: Any = (topic, [(number, self.marker_error, {})], {})
            return SimpleNamespace(markers=[(producer, [told], {})])
        assert call.struct is protocol.DescribeProducers
        return SimpleNamespace(
            topics=[
                (topic, [self._described(node, TP(topic, number)) for number in numbers], {})
                for topic, numbers, _ in call.arguments[0]
            ]
        )

    def _described(self, node: int, tp: TP) -> Any:
        assert self.leaders[tp] == node
        over: Any = (MINE, 1, 0, 0, 2, -1, {})
        of: list[Any] = [(who, epoch, 5, 0, 4, 17, {}) for who, epoch in self.open.get(tp, ())]
        return tp.partition, self.describe_errors.get(tp, 0), None, [over, *of], {}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Return brokers on which nothing was left open."""
    monkeypatch.setattr(retries, "ENDING", replace(retries.ENDING, longest_seconds=0.0))
    return FakeCluster()


def made(cluster: FakeCluster) -> TransactionalId:
    """Return the id."""
    return TransactionalId(cast(Any, cluster), "id", 5_000)


async def next_identity(cluster: FakeCluster) -> ProducerIdentity:
    """Return the next identity, in time."""
    async with asyncio.timeout(30):
        return await made(cluster).next_identity()


@pytest.mark.parametrize("state", ["Empty", protocol.TRANSACTIONAL_ID_NOT_FOUND])
async def test_an_id_without_a_transaction_needs_two_questions(
    cluster: FakeCluster, state: str | int
) -> None:
    cluster.states = [state]
    assert await next_identity(cluster) == (MINE, 4)
    assert cluster.events == ["ask", "begin"]


@pytest.mark.parametrize(
    ("states", "committed"),
    [
        (["PrepareCommit", "PrepareCommit", "CompleteCommit"], True),
        (["CompleteCommit"], True),
        (["PrepareAbort", "CompleteAbort"], False),
    ],
)
async def test_what_was_skipped_is_ended_as_decided_before_that_is_forgotten(
    cluster: FakeCluster, states: list[str | int], committed: bool
) -> None:
    cluster.states = states
    epoch = 3 if committed else 2
    cluster.open = {FAR: [(OTHER, 0), (MINE, 3)], NEAR: [(OTHER, 9)], OFFSETS: [(MINE, epoch)]}
    asked = len(states)
    assert await next_identity(cluster) == (MINE, 4)
    # With the epoch of the transaction, and the coordinator's as the partition knows it.
    assert sorted(cluster.markers) == [
        (OFFSETS, MINE, 3, committed, 4),
        (FAR, MINE, 3, committed, 4),
    ]
    assert cluster.open == {NEAR: [(OTHER, 9)]}
    assert cluster.events == ["ask"] * asked + ["begin"]


async def test_what_is_open_is_aborted_and_looked_for_afterwards(cluster: FakeCluster) -> None:
    cluster.states = ["Ongoing", "PrepareAbort", "CompleteAbort"]
    cluster.begin_errors = [protocol.CONCURRENT_TRANSACTIONS]
    cluster.open, cluster.partitions = {FAR: [(MINE, 3)]}, [FAR]

    def aborted() -> None:
        cluster.partitions = []

    cluster.on_begin = aborted
    await next_identity(cluster)
    assert cluster.markers == [(FAR, MINE, 3, False, 4)]
    assert cluster.events == ["ask", "begin", "ask", "ask", "begin"]


async def test_what_is_open_elsewhere_meanwhile_was_committed_before(cluster: FakeCluster) -> None:
    """An abort would have begun another epoch."""
    cluster.states = ["Ongoing"]
    cluster.open, cluster.partitions = {FAR: [(MINE, 3)], NEAR: [(MINE, 3)]}, [FAR]
    await next_identity(cluster)
    # Only once it is aborted: until then, its producer may write anywhere.
    assert sorted(cluster.markers) == [(NEAR, MINE, 4, True, 4), (FAR, MINE, 4, False, 4)]


@pytest.mark.parametrize(("state", "epoch"), [("CompleteCommit", 2), ("CompleteAbort", 1)])
async def test_how_an_older_epoch_has_ended_nobody_knows(
    cluster: FakeCluster, state: str, epoch: int
) -> None:
    cluster.states, cluster.open = [state], {FAR: [(MINE, epoch)]}
    await next_identity(cluster)
    assert cluster.markers == []


async def test_so_it_is_if_it_was_aborted_between_two_questions(cluster: FakeCluster) -> None:
    cluster.states = ["Ongoing"]
    cluster.open, cluster.partitions = {FAR: [(MINE, 3)]}, [FAR]
    await next_identity(cluster)
    assert cluster.markers == [(FAR, MINE, 4, False, 4)]


async def test_a_coordinator_that_moves_or_loads_is_asked_again(cluster: FakeCluster) -> None:
    cluster.states = [protocol.NOT_COORDINATOR, "Empty"]
    cluster.begin_errors = [protocol.COORDINATOR_LOAD_IN_PROGRESS]
    await next_identity(cluster)
    assert cluster.events == ["ask", "ask", "begin", "ask", "begin"]
    assert cluster.forgotten == [(TRANSACTION, "id")] * 2


@pytest.mark.parametrize(("state", "errors"), [(NOT_AUTHORIZED, []), ("Empty", [NOT_AUTHORIZED])])
async def test_who_may_not_is_told(
    cluster: FakeCluster, state: str | int, errors: list[int]
) -> None:
    cluster.states, cluster.begin_errors = [state], errors
    with pytest.raises(TransactionalIdAuthorizationFailed):
        await next_identity(cluster)


async def test_a_partition_without_a_leader_is_looked_at_once_it_has_one(
    cluster: FakeCluster,
) -> None:
    cluster.states = ["CompleteCommit", "Empty"]
    cluster.leaders[FAR] = NO_LEADER
    cluster.open = {FAR: [(MINE, 3)]}
    mine = made(cluster)
    await mine.next_identity()
    await mine.end_unseen()
    assert cluster.markers == []
    cluster.leaders[FAR] = 2
    await mine.end_unseen()
    assert cluster.markers == [(FAR, MINE, 3, True, 4)]
    del cluster.leaders[FAR]  # what is not remembered is not asked for
    await mine.end_unseen()


async def test_what_a_later_epoch_has_opened_there_is_left_alone(cluster: FakeCluster) -> None:
    cluster.states = ["CompleteCommit", "Ongoing"]
    cluster.leaders[FAR] = NO_LEADER
    mine = made(cluster)
    await mine.next_identity()
    cluster.leaders[FAR], cluster.open = 2, {FAR: [(MINE, 4)]}
    await mine.end_unseen()
    assert cluster.markers == []


async def test_what_may_not_be_read_is_left_out(cluster: FakeCluster) -> None:
    cluster.states = ["CompleteCommit"]
    cluster.open = {OFFSETS: [(MINE, 3)], NEAR: [(MINE, 3)]}
    cluster.describe_errors = {OFFSETS: protocol.TOPIC_AUTHORIZATION_FAILED}
    await next_identity(cluster)
    assert cluster.markers == [(NEAR, MINE, 3, True, 4)]


async def test_without_the_right_to_end_it_nothing_is_forgotten(cluster: FakeCluster) -> None:
    cluster.states, cluster.open = ["CompleteCommit"], {NEAR: [(MINE, 3)]}
    cluster.marker_error = protocol.CLUSTER_AUTHORIZATION_FAILED
    with pytest.raises(UndecidedError) as told:
        await next_identity(cluster)
    assert str(told.value) == (
        "users-changelog, partition 0: a transaction that was committed is open still, by a fault "
        "of Kafka, and this worker has no right to end it: give its user ALTER on the cluster, and "
        "start it again; see docs/operations.md"
    )
    assert "begin" not in cluster.events


async def test_a_leader_that_moves_is_told(cluster: FakeCluster) -> None:
    cluster.states, cluster.open = ["CompleteCommit"], {NEAR: [(MINE, 3)]}
    cluster.describe_errors = {NEAR: NOT_LEADER}
    with pytest.raises(Exception, match="NotLeader"):
        await next_identity(cluster)
    cluster.describe_errors, cluster.marker_error = {}, NOT_LEADER
    with pytest.raises(Exception, match="NotLeader"):
        await next_identity(cluster)
    assert "begin" not in cluster.events
