"""What a rebalance brings: partitions with all their sources or not at all, kept or anew."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor
from faust.types import TP

from app.config.connection import Connection
from app.domain.errors import ApplyError, FencedError, LostRecordsError, ReplacedError
from app.engine.assignment import EngineSettings, PartitionAssignment, Progress
from app.engine.changelog import Changelog
from app.engine.partitions import AppliedTable, Key, OwnedPartition, Partitions
from app.kafka.transactions import Member

COUNT = 8
OLD = ("user-registrations", "users-changelog")
NEW = (*OLD, "email-claims", "email-decisions", "emails-changelog")
TABLES = {
    "users": ("email-decisions", "user-registrations"),
    "emails": ("email-claims",),
}
MEMBER = Member("app", 7, "member-1", "worker-1")
SESSION_SECONDS = 10.0


@dataclass
class Store:
    """A store of which only the closing counts."""

    closed: list[int] = field(default_factory=list)
    others_closed: list[int] = field(default_factory=list)

    def close(self, partitions: Iterable[int]) -> None:
        """Note it."""
        self.closed += partitions

    def close_others(self, partitions: Iterable[int]) -> None:
        """Note what stays."""
        self.others_closed = list(partitions)


@dataclass
class FakeConsumer:
    """As what a worker is in its group."""

    now: Member = MEMBER
    rejoins: int = 0

    def member(self) -> Member:
        """Return it."""
        return self.now

    def rejoin(self) -> None:
        """Note it."""
        self.rejoins += 1


@dataclass
class FakeApp:
    """The app, as far as an assignment needs it."""

    assigned: set[TP] = field(default_factory=set)
    standbys: set[TP] = field(default_factory=set)
    consumer: FakeConsumer = field(default_factory=FakeConsumer)
    crashes: list[BaseException] = field(default_factory=list)

    @property
    def assignor(self) -> Any:
        """What was assigned."""
        return SimpleNamespace(
            assigned_actives=lambda: self.assigned, assigned_standbys=lambda: self.standbys
        )

    async def crash(self, error: BaseException) -> None:
        """Note it."""
        self.crashes.append(error)


@dataclass
class World:
    """An assignment, and what is around it."""

    app: FakeApp = field(default_factory=FakeApp)

    def __post_init__(self) -> None:
        self.stores = {name: Store() for name in TABLES}
        self.partitions = Partitions()
        for name, sources in TABLES.items():
            store = cast(Any, self.stores[name])
            changelog = Changelog(f"{name}-changelog", store)
            self.partitions.add(AppliedTable(name, sources, changelog, store))
        settings = EngineSettings(Connection("nowhere:1"), "app", "worker-1", SESSION_SECONDS, 60.0)
        self.assignment = PartitionAssignment(cast(Any, self.app), self.partitions, settings)
        self.opened: list[Key] = []
        self.begun: list[Member] = []

    def stub(self, patch: pytest.MonkeyPatch) -> None:
        """Leave out what needs a broker, and open partitions at once."""

        async def nothing(*_: Any) -> None:
            pass

        async def read_all(partitions: list[OwnedPartition]) -> None:
            for partition in partitions:
                if not partition.is_open:
                    self.opened.append(partition.key)
                    partition._is_open = True
                partition.begin()

        for name in ("_connect", "_open_flow", "_complete"):
            patch.setattr(self.assignment, name, nothing)
        patch.setattr(self.assignment, "_read_all", read_all)
        patch.setattr(self.assignment.cycles, "begin", self.begun.append)

    async def rebalance(self, member: Member, assigned: set[TP]) -> None:
        """Assign, and wait until it is done."""
        self.opened.clear()
        self.app.consumer.now, self.app.assigned = member, assigned
        await self.assignment.on_rebalance(assigned, set(), set(), member.generation)
        await asyncio.gather(*self.assignment._running)


def of(*numbers: int) -> set[TP]:
    """Return all topics' partitions of some numbers."""
    return {TP(topic, number) for topic in NEW for number in numbers}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Return an assignment that needs no broker."""
    made = World()
    made.stub(monkeypatch)
    return made


# -- what is owned


def assign(subscriptions: dict[str, Iterable[str]]) -> dict[str, set[TP]]:
    """Return what Faust assigns to members that subscribe to topics."""
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(COUNT)))
    app = SimpleNamespace(
        tables=SimpleNamespace(data={}, changelog_topics=set(OLD) & {"users-changelog"}),
        tracer=None,
        sensors=SimpleNamespace(
            on_assignment_start=lambda *_: None, on_assignment_completed=lambda *_: None
        ),
        conf=SimpleNamespace(canonical_url="http://here"),
    )
    assignor = PartitionAssignor(cast(Any, app))
    members = {
        member: ConsumerProtocolMemberMetadata(
            0,
            list(topics),
            ClientMetadata(
                assignment=ClientAssignment(actives={}, standbys={}),
                url=f"http://{member}",
                changelog_distribution={},
                external_topic_distribution={},
                topic_groups={},
            ).dumps(),
        )
        for member, topics in subscriptions.items()
    }
    given = assignor._perform_assignment(cast(ClusterMetadata, cluster), members)
    return {
        member: {TP(topic, n) for topic, numbers in assignment.assignment for n in numbers}
        for member, assignment in given.items()
    }


def wanted(assigned: set[TP]) -> set[Key]:
    """Return what a worker owns of what it was assigned."""
    return World(FakeApp(assigned)).assignment._wanted()


def test_topics_that_all_workers_know_are_assigned_together() -> None:
    for assigned in assign({"one": NEW, "two": NEW, "three": NEW}).values():
        by_topic = [{tp.partition for tp in assigned if tp.topic == topic} for topic in NEW]
        assert by_topic[0]
        assert all(numbers == by_topic[0] for numbers in by_topic)
        assert wanted(assigned) == {(t, n) for n in by_topic[0] for t in ("users", "emails")}


def test_while_a_worker_of_an_older_version_is_there_no_partition_is_owned_in_part() -> None:
    """Faust then assigns the topics that it does not know by themselves."""
    torn = False
    for assigned in assign({"old": OLD, "new": NEW, "newer": NEW}).values():
        owned = wanted(assigned)
        for table, number in owned:
            assert {TP(topic, number) for topic in TABLES[table]} <= assigned
        changelogs = {tp.partition for tp in assigned if tp.topic == "users-changelog"}
        torn = torn or len(changelogs) > sum(table == "users" for table, _ in owned)
    assert torn


# -- what is kept


@pytest.mark.parametrize(
    ("following", "is_kept"),
    [
        (MEMBER, True),
        (replace(MEMBER, generation=8), True),
        # Meanwhile somebody else may have owned it.
        (replace(MEMBER, generation=9), False),
        (replace(MEMBER, generation=6), False),
        (replace(MEMBER, generation=8, member_id="member-2"), False),
    ],
)
async def test_a_partition_is_kept_only_if_nobody_else_can_have_owned_it_meanwhile(
    world: World, following: Member, is_kept: bool
) -> None:
    await world.rebalance(MEMBER, of(0, 1))
    assert sorted(world.opened) == [(t, n) for t in ("emails", "users") for n in (0, 1)]
    before = {each.key: each for each in world.partitions.owned()}
    await world.rebalance(following, of(1, 2))
    opened = {("users", 2), ("emails", 2)} | (set() if is_kept else {("users", 1), ("emails", 1)})
    assert set(world.opened) == opened
    assert (world.partitions.get("users", 1) is before["users", 1]) == is_kept
    assert world.partitions.get("users", 0) is None
    assert sorted(world.stores["users"].closed) == ([0] if is_kept else [0, 1])


async def test_cycles_commit_as_the_member_of_the_generation_that_was_assigned(
    world: World,
) -> None:
    await world.rebalance(MEMBER, of(0))
    following = replace(MEMBER, generation=8)
    await world.rebalance(following, of(0))
    assert world.begun == [MEMBER, following]


async def test_they_do_so_although_the_next_generation_has_begun_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is opened now may be another worker's in that one."""

    async def connect() -> None:
        world.app.consumer.now = replace(MEMBER, generation=MEMBER.generation + 1)

    monkeypatch.setattr(world.assignment, "_connect", connect)
    await world.rebalance(MEMBER, of(0))
    assert world.begun == [MEMBER]


def test_a_transaction_is_over_before_the_session_of_its_worker_is(world: World) -> None:
    """Else it would hold up who takes over."""
    producer = world.assignment._producer
    assert 0 < producer._timeout_ms < SESSION_SECONDS * 1000


async def test_what_is_copied_from_others_is_kept_and_all_else_is_closed(world: World) -> None:
    world.app.standbys = {TP("users-changelog", 3), TP("users-changelog", 0)}
    await world.rebalance(MEMBER, of(0))
    for task in world.assignment._running:
        task.cancel()
    assert world.partitions.standbys == {"users": [3], "emails": []}
    assert sorted(world.stores["users"].others_closed) == [0, 3]
    assert world.stores["emails"].others_closed == [0]


# -- who is refused


def test_who_was_fenced_rejoins_only_if_the_group_has_nothing_newer_for_it(world: World) -> None:
    fenced = FencedError("over")
    world.assignment._on_fenced(replace(MEMBER, generation=6), fenced)
    # Nor does who was replaced take the name back.
    world.assignment._on_fenced(MEMBER, ReplacedError("another worker"))
    assert world.app.consumer.rejoins == 0
    world.assignment._on_fenced(MEMBER, fenced)
    assert world.app.consumer.rejoins == 1


async def test_what_ends_a_worker_is_told_once_and_without_what_may_be_personal(
    world: World,
) -> None:
    await world.assignment.end_worker(ValueError("ada@example.com"))
    await world.assignment.end_worker(LostRecordsError("later"))
    (error,) = world.app.crashes
    assert isinstance(error, ApplyError)
    assert str(error) == "records cannot be applied: unexpected ValueError"


async def test_what_we_say_ourselves_is_told_when_a_worker_ends(world: World) -> None:
    await world.assignment.end_worker(LostRecordsError("records from 5 to 7 were deleted"))
    assert "records from 5 to 7" in str(world.app.crashes[0])


async def test_what_the_fetcher_cannot_mend_ends_the_worker(world: World) -> None:
    world.assignment._on_fetch_failure(LostRecordsError("gone"))
    await asyncio.gather(*world.assignment._running)
    assert len(world.app.crashes) == 1


# -- how far it is


def test_progress_adds_up_and_tells_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress()
    one, two = (cast(OwnedPartition, object()) for _ in range(2))
    assert progress.as_fields()["seconds_left"] == 0.0
    monkeypatch.setattr(Progress, "seconds", property(lambda _: 2.0))
    progress.advance(one, 100, 900)
    progress.advance(two, 100, 100)
    progress.advance(one, 200, 700)
    assert progress.as_fields() == {"rows": 400, "rows_per_second": 200, "seconds_left": 4.0}
