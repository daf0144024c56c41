"""The barrier: what a new owner waits for, in this order, and whose transactions it ends."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, NotCoordinatorForGroupError
from faust.types import TP

from app.domain.errors import UndecidedError
from app.engine import barrier as engine
from app.engine.barrier import Barrier, end_abandoned, fence, worker_ids
from app.kafka import protocol
from app.kafka.cluster import GROUP, TRANSACTION
from app.kafka.transactional_ids import worker_id

APP = "registry"
CHANGELOG = TP("users-changelog", 3)
SOURCES = [TP("verdicts", 3), TP("source", 3)]
TIMEOUT_SECONDS = 10.0
NOT_AUTHORIZED = 30


@dataclass
class FakeCluster:
    """A group, a log and transactions; notes what is asked of it, in order."""

    #: For each question to come whether offsets are pending; the last one counts for ever.
    unstable: list[bool] = field(default_factory=lambda: [False])
    #: The high watermark, and up to where transactions are decided.
    end: int = 10
    stable_end: int = 10
    #: Open transactions by transactional id; ending one may change something.
    open: dict[str, Callable[[], None]] = field(default_factory=dict)
    #: The producer ids of all that were open.
    producers: dict[str, int] = field(default_factory=dict)
    #: Those that their coordinator has forgotten.
    forgotten_ids: set[str] = field(default_factory=set)
    members: list[str | None] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    asked_for: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    group_error: int = 0
    offset_error: int = 0
    list_error: int = 0
    fence_errors: list[int] = field(default_factory=list)
    forgotten: list[tuple[int, str]] = field(default_factory=list)
    #: Called for each question for offsets.
    on_offsets: Callable[[], None] = lambda: None

    async def coordinate(self, kind: int, key: str, call: Any, group: Any = None) -> Any:
        """Answer as a coordinator."""
        await asyncio.sleep(0)
        struct = getattr(call, "struct", None)
        if struct is protocol.OffsetFetch:
            assert (kind, key) == (GROUP, APP)
            return self._offsets(*call.arguments)
        if struct is protocol.DescribeGroups:
            assert (kind, key) == (GROUP, APP)
            members = [("m", name, "", "", b"", b"") for name in self.members]
            return SimpleNamespace(groups=[(self.group_error, APP, "", "", "", members, 0)])
        assert kind == TRANSACTION
        if struct is protocol.DescribeTransactions:
            state = "Ongoing" if key in self.open else "Empty"
            producer = self.producers.get(key, -1)
            return SimpleNamespace(transactions=[(0, key, state, 0, 0, producer, 0, [], {})])
        error = self.fence_errors.pop(0) if self.fence_errors else 0
        if not error:
            self.events.append(f"fence {key}")
            self.open.pop(key, lambda: None)()
        return SimpleNamespace(error_code=error, producer_id=1, producer_epoch=1)

    def _offsets(self, group: str, topics: Any, require_stable: bool, tags: Any) -> Any:
        assert (group, require_stable) == (APP, True)
        self.events.append("offsets")
        self.on_offsets()
        self.asked_for = [(topic, tuple(numbers)) for topic, numbers, _ in topics]
        is_unstable = self.unstable.pop(0) if len(self.unstable) > 1 else self.unstable[0]
        error = protocol.UNSTABLE_OFFSET_COMMIT if is_unstable else 0
        found: list[Any] = [
            (topic, [(number, 5, -1, "", 0, {}) for number in numbers], {})
            for topic, numbers, _ in topics
        ]
        if is_unstable:
            topic, numbers, _ = found[-1]
            found[-1] = (topic, [(number, -1, -1, "", error, {}) for number, *_ in numbers], {})
        return SimpleNamespace(error_code=self.offset_error, topics=found)

    async def places(self, *more: str) -> Mapping[TP, int]:
        """Return who leads what there is."""
        return {CHANGELOG: 1}

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return the high watermark."""
        self.events.append("end")
        return dict.fromkeys(partitions, self.end)

    async def stable_ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return up to where transactions are decided."""
        self.events.append("stable end")
        return dict.fromkeys(partitions, self.stable_end)

    def leader(self, tp: TP) -> int:
        """Return the only broker that leads anything."""
        return 1

    async def send(self, node: int, call: Any) -> Any:
        """Describe the producers of the changelog: of one more the transaction is over."""
        assert call.struct is protocol.DescribeProducers
        assert call.arguments == ([(CHANGELOG.topic, [CHANGELOG.partition], {})], {})
        for each in self.open:
            self.producers.setdefault(each, len(self.producers))
        producers: list[Any] = [(self.producers[each], 0, 5, 0, 0, 7, {}) for each in self.open]
        over: Any = (99, 0, 5, 0, 0, -1, {})
        partition: Any = (CHANGELOG.partition, 0, None, [*producers, over], {})
        return SimpleNamespace(topics=[(CHANGELOG.topic, [partition], {})])

    async def ask_all(self, call: Any) -> list[Any]:
        """List transactions by their producers: two brokers coordinate them."""
        states, wanted, _ = call.arguments
        assert states == []
        rows: list[Any] = [
            (each, number, "Ongoing", {})
            for each, number in self.producers.items()
            if number in wanted and each not in self.forgotten_ids
        ]
        return [
            SimpleNamespace(error_code=self.list_error, transactions=rows[::2]),
            SimpleNamespace(error_code=0, transactions=rows[1::2]),
        ]

    def forget_coordinator(self, kind: int, key: str) -> None:
        """Note it."""
        self.forgotten.append((kind, key))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Return a cluster on which nothing is open."""
    monkeypatch.setattr(engine, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(engine, "PATIENCE_SECONDS", 0.02)
    return FakeCluster()


async def end_of(cluster: FakeCluster) -> int:
    """Return up to where a new owner must read."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return await Barrier(cast(Any, cluster), APP).end_of(CHANGELOG, SOURCES)


def short(events: list[str]) -> list[str]:
    """Return what was asked, each repeated question once."""
    return [each for n, each in enumerate(events) if n == 0 or each != events[n - 1]]


# -- the order


async def test_where_nothing_is_open_three_questions_suffice(cluster: FakeCluster) -> None:
    assert await end_of(cluster) == 10
    assert cluster.events == ["offsets", "end", "stable end"]


async def test_offsets_of_all_sources_are_asked_for(cluster: FakeCluster) -> None:
    """A transaction names each of them; but who asks for none waits for nothing."""
    await end_of(cluster)
    assert cluster.asked_for == [("verdicts", (3,)), ("source", (3,))]


async def test_the_end_is_asked_for_once_no_offset_is_pending_any_more(
    cluster: FakeCluster,
) -> None:
    """What is committed meanwhile is below the end that counts."""
    cluster.unstable = [True, True, True, False]

    def commit_last() -> None:
        if cluster.unstable == [False]:
            cluster.end = cluster.stable_end = 15

    cluster.on_offsets = commit_last
    assert await end_of(cluster) == 15
    assert cluster.events == ["offsets"] * 4 + ["end", "stable end"]


async def test_the_end_is_the_high_watermark_and_waited_for_until_all_below_is_decided(
    cluster: FakeCluster,
) -> None:
    cluster.stable_end = 6
    asked = asyncio.create_task(end_of(cluster))
    while "stable end" not in cluster.events:
        await asyncio.sleep(0)
    assert not asked.done()
    cluster.stable_end = 10
    assert await asked == 10
    assert short(cluster.events) == ["offsets", "end", "stable end"]


async def test_what_comes_behind_the_end_is_not_waited_for(cluster: FakeCluster) -> None:
    cluster.end, cluster.stable_end = 10, 12
    assert await end_of(cluster) == 10


# -- what holds it up


def decide(cluster: FakeCluster, end: int) -> Callable[[], None]:
    """Return what ends a transaction in the changelog: its control record is the last."""

    def decided() -> None:
        cluster.end = cluster.stable_end = end

    return decided


async def test_a_transaction_that_its_worker_left_open_is_ended_and_the_end_taken_anew(
    cluster: FakeCluster,
) -> None:
    dead = worker_id(APP, "worker-2")
    cluster.stable_end = 6
    cluster.open = {dead: decide(cluster, 11)}
    cluster.members = ["worker-1"]
    assert await end_of(cluster) == 11
    assert short(cluster.events) == [
        "offsets",
        "end",
        "stable end",
        f"fence {dead}",
        "offsets",
        "end",
        "stable end",
    ]


async def test_one_that_keeps_offsets_pending_is_ended_as_well(cluster: FakeCluster) -> None:
    dead = worker_id(APP, "worker-2")
    cluster.unstable = [True]

    def decided() -> None:
        cluster.unstable = [False]

    cluster.open = {dead: decided}
    assert await end_of(cluster) == 10
    assert short(cluster.events) == ["offsets", f"fence {dead}", "offsets", "end", "stable end"]


async def test_members_of_the_group_are_waited_for(cluster: FakeCluster) -> None:
    """They are at work, or will end their own when the broker refuses them."""
    cluster.stable_end = 6
    cluster.open = {
        worker_id(APP, "worker-1"): decide(cluster, 11),
        worker_id(APP, "worker-2"): lambda: None,
    }
    cluster.members = ["worker-1", None]
    asked = asyncio.create_task(end_of(cluster))
    while f"fence {worker_id(APP, 'worker-2')}" not in cluster.events:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert not asked.done()
    assert f"fence {worker_id(APP, 'worker-1')}" not in cluster.events
    cluster.stable_end = 10
    assert await asked == 10


async def test_nobody_is_looked_for_within_the_time_that_a_transaction_may_take(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PATIENCE_SECONDS", 60.0)
    cluster.stable_end = 6
    cluster.open = {worker_id(APP, "worker-2"): lambda: None}
    asked = asyncio.create_task(end_of(cluster))
    await asyncio.sleep(0.03)
    assert not [event for event in cluster.events if event.startswith("fence")]
    cluster.stable_end = 10
    assert await asked == 10


async def test_transactions_of_commands_and_of_others_are_left_alone(
    cluster: FakeCluster,
) -> None:
    left = [f"{APP}-repartition", "another-worker-2", APP]
    cluster.open = {each: lambda: None for each in [*left, worker_id(APP, "worker-2")]}
    await end_abandoned(cast(Any, cluster), APP, CHANGELOG)
    assert cluster.events == [f"fence {worker_id(APP, 'worker-2')}"]
    assert list(cluster.open) == left


async def test_workers_are_those_that_are_in_the_group_under_a_name(cluster: FakeCluster) -> None:
    cluster.members = ["worker-1", None, "worker-2"]
    expected = {worker_id(APP, "worker-1"), worker_id(APP, "worker-2")}
    assert await worker_ids(cast(Any, cluster), APP) == expected


async def test_what_nobody_knows_the_end_of_stops_a_new_owner(cluster: FakeCluster) -> None:
    """Whether it was committed or aborted, its coordinator has forgotten."""
    cluster.open = {"gone": lambda: None}
    cluster.forgotten_ids = {"gone"}
    with pytest.raises(UndecidedError, match="does not know any more how it ended"):
        await end_abandoned(cast(Any, cluster), APP, CHANGELOG)


# -- fencing


async def test_a_transaction_that_is_just_being_ended_is_asked_for_again(
    cluster: FakeCluster,
) -> None:
    cluster.fence_errors = [protocol.CONCURRENT_TRANSACTIONS] * 3
    await fence(cast(Any, cluster), "id")
    assert cluster.events == ["fence id"]


async def test_who_cannot_be_fenced_is_told(cluster: FakeCluster) -> None:
    cluster.fence_errors = [NOT_AUTHORIZED]
    with pytest.raises(KafkaError):
        await fence(cast(Any, cluster), "id")


async def test_a_coordinator_that_moves_is_looked_up_anew(cluster: FakeCluster) -> None:
    cluster.fence_errors = [protocol.NOT_COORDINATOR]
    await fence(cast(Any, cluster), "id")
    assert cluster.forgotten == [(TRANSACTION, "id")]
    assert cluster.events == ["fence id"]


# -- brokers that do not answer it


async def test_errors_of_the_group_are_told_and_its_coordinator_is_looked_up_anew(
    cluster: FakeCluster,
) -> None:
    cluster.offset_error = protocol.NOT_COORDINATOR
    with pytest.raises(NotCoordinatorForGroupError):
        await end_of(cluster)
    assert cluster.forgotten == [(GROUP, APP)]


async def test_who_is_in_the_group_is_known_before_anything_is_ended(
    cluster: FakeCluster,
) -> None:
    cluster.open = {worker_id(APP, "worker-2"): lambda: None}
    cluster.group_error = NOT_AUTHORIZED
    with pytest.raises(GroupAuthorizationFailedError):
        await end_abandoned(cast(Any, cluster), APP, CHANGELOG)
    assert cluster.events == []
    cluster.group_error, cluster.list_error = 0, protocol.COORDINATOR_LOAD_IN_PROGRESS
    with pytest.raises(KafkaError):
        await end_abandoned(cast(Any, cluster), APP, CHANGELOG)
    assert cluster.events == []
