"""Cycles: each record once and in order, in one transaction of all partitions, whatever fails."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from app.config.connection import Connection
from app.domain.errors import (
    ApplyError,
    CorruptBatchError,
    DecisionError,
    FencedError,
    LostChangelogError,
    LostRecordsError,
    NotWrittenError,
    RegistryError,
    StoreError,
    StuckError,
    TooLargeError,
)
from app.domain.records import Outgoing
from app.engine import cycles as engine
from app.engine import partitions as partitions_module
from app.engine.batches import Batch
from app.engine.changelog import Advanced, Changelog, Reading
from app.engine.cycles import MAX_RECORDS, Callbacks, Cycles
from app.engine.lease import Lease
from app.engine.marker import MARKER_KEY, Marker
from app.engine.partitions import (
    AppliedTable,
    Changes,
    Opening,
    OwnedPartition,
    Partitions,
    short_id,
)
from app.kafka.fetching import Taken
from app.kafka.transactions import Member, Rows, Sendings
from app.system import retries
from app.system.clocks import Moment
from tests.support.strategies import Record

#: Of each table the topics that it applies, those that are applied first before the others.
TABLES = {"users": ("verdicts", "source"), "emails": ("claims",)}
RULES = "3:secret"
MEMBER = Member("app", 4, "member", "worker")
EPOCH = 2
TIMEOUT_SECONDS = 60.0


@dataclass
class Log:
    """A partition of a source topic; what is not a record is a control record."""

    records: list[Record] = field(default_factory=list)
    begin: int = 0
    end: int = 0
    epoch: int = EPOCH
    #: Where an open transaction begins: nobody reads further.
    open_at: int | None = None

    @property
    def stable_end(self) -> int:
        """Where readers of what is committed come to."""
        return self.end if self.open_at is None else self.open_at


@dataclass
class FakeStore:
    """Rows of a table in memory; fails when told to."""

    rows: defaultdict[int, dict[bytes, bytes | None]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    at: dict[int, int] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    #: What it fails with for as long as this is set.
    broken: Exception | None = None
    closed: list[int] = field(default_factory=list)

    def apply(self, partition: int, rows: Rows, changelog_offset: int) -> None:
        """Take rows."""
        if self.broken is not None:
            raise self.broken
        if self.failures:
            raise self.failures.pop(0)
        self.rows[partition] |= rows
        self.at[partition] = changelog_offset

    def read(self, partition: int, key: bytes) -> bytes | None:
        """Return a row."""
        return self.rows[partition].get(key)

    def close(self, partitions: Iterable[int]) -> None:
        """Note it."""
        self.closed += partitions


class FakeChangelog(Changelog):
    """A changelog whose committed rows are the broker's."""

    def __init__(self, topic: str, store: FakeStore, broker: "FakeBroker") -> None:
        super().__init__(topic, cast(Any, store))
        self._rows = broker.changelogs
        self._fake = store
        self.held: asyncio.Event | None = None

    async def recover(
        self, reading: Reading, partition: int, sources: Iterable[str], advanced: Advanced
    ) -> Marker | None:
        """Bring the store up to date."""
        if self.held is not None:
            await self.held.wait()
        committed = self._rows[TP(self.topic, partition)]
        at = self._fake.at.get(partition, -1)
        for offset, rows in enumerate(committed[at + 1 :], at + 1):
            self._fake.apply(partition, rows, offset)
        return self.marker(partition)


@dataclass
class Committed:
    """A transaction that the broker has."""

    member: Member | None
    rows: dict[TP, dict[bytes, bytes | None]]
    outgoing: list[tuple[TP, bytes | None]]
    offsets: Mapping[TP, int]


@dataclass
class FakeBroker:
    """The broker's side: sources, what is committed, and how each commit shall fail."""

    sources: defaultdict[TP, Log] = field(default_factory=lambda: defaultdict(Log))
    changelogs: defaultdict[TP, list[Rows]] = field(default_factory=lambda: defaultdict(list))
    committed: list[Committed] = field(default_factory=list)
    #: For each commit to come: an error, and whether the transaction is committed all the same.
    failures: list[tuple[Exception, bool]] = field(default_factory=list)
    start_failures: list[Exception] = field(default_factory=list)
    #: Tells whether the batch of a partition is too large.
    is_too_large: Callable[[TP, Sequence[Any]], bool] = lambda tp, records: False
    ids: dict[str, bytes] = field(default_factory=dict)
    #: What the transaction under way has written ahead, and what it will write by its word.
    ahead: list[tuple[TP, Record]] = field(default_factory=list)
    joined: set[TP] = field(default_factory=set)
    send_failures: list[Exception] = field(default_factory=list)
    #: How many records of others come just before what is sent next.
    between: dict[TP, int] = field(default_factory=dict)
    #: How many of others come behind its first record.
    among: dict[TP, int] = field(default_factory=dict)
    on_end: Callable[[], None] = lambda: None
    starts_of_producer: int = 0
    commits: int = 0
    is_started: bool = False
    held: asyncio.Event | None = None

    # -- as a producer

    async def start(self) -> None:
        """Start anew."""
        if self.start_failures:
            raise self.start_failures.pop(0)
        self.starts_of_producer += 1
        self._close_all()
        self.is_started = True

    async def end_open(self) -> None:
        """End what is under way."""
        if self.ahead:
            await self.start()

    async def send(
        self, member: Member | None, sendings: Sendings, later: Iterable[TP] = ()
    ) -> Mapping[TP, range]:
        """Write records ahead of a commit, or fail as told."""
        assert self.is_started or self.ahead
        self.is_started = False
        self.joined.update(later)
        await asyncio.sleep(0)
        if self.send_failures:
            raise self.send_failures.pop(0)
        spans: dict[TP, range] = {}
        for tp, records in sendings.items():
            log = self.sources[tp]
            begin = log.end + self.between.pop(tp, 0)
            log.open_at = begin if log.open_at is None else log.open_at
            among = self.among.pop(tp, 0)
            spans[tp] = range(begin, begin + len(records) + among)
            log.records += [Record(b"value", begin + 1 + number) for number in range(among)]
            at = [begin, *range(begin + 1 + among, spans[tp].stop)]
            self.ahead += [
                (tp, Record(value or b"", offset, key=key))
                for offset, (_, key, value, _) in zip(at, records, strict=True)
            ]
            log.end = spans[tp].stop
        return spans

    async def commit(
        self, member: Member | None, sendings: Sendings, offsets: Mapping[TP, int]
    ) -> Mapping[TP, range]:
        """Commit, or fail as told."""
        assert self.is_started or self.ahead
        self.is_started = False
        self.commits += 1
        await asyncio.sleep(0)
        if self.held is not None:
            await self.held.wait()
        for tp, records in sendings.items():
            if self.is_too_large(tp, records):
                raise TooLargeError(f"{tp.topic}, partition {tp.partition}: too large")
        error, is_written = self.failures.pop(0) if self.failures else (None, True)
        if is_written:
            self._write(member, sendings, offsets)
        if error is not None:
            raise error
        self.is_started = True
        return {tp: range(len(self.changelogs[tp])) for tp in sendings}

    def _write(self, member: Member | None, sendings: Sendings, offsets: Mapping[TP, int]) -> None:
        ahead = list(self.ahead)
        rows: dict[TP, dict[bytes, bytes | None]] = {}
        outgoing: list[tuple[TP, bytes | None]] = [(tp, record.key) for tp, record in ahead]
        for tp, record in ahead:
            self.sources[tp].records.append(record)
            self.sources[tp].records.sort(key=lambda each: each.offset)
        self._close_all()
        for tp, records in sendings.items():
            if tp.topic.endswith("changelog"):
                rows[tp] = {key or b"": row for _, key, row, _ in records}
                self.changelogs[tp].append(rows[tp])
            else:
                outgoing += [(tp, key) for _, key, _, _ in records]
                log = self.sources[tp]
                log.records += [
                    Record(value, log.end + number, key=key)
                    for number, (_, key, value, _) in enumerate(records)
                ]
                log.end += len(records)
        self.committed.append(Committed(member, rows, outgoing, dict(offsets)))

    def _close_all(self) -> None:
        for tp in {tp for tp, _ in self.ahead}:
            self.sources[tp].end += 1  # what ends the transaction
            self.sources[tp].open_at = None
        self.ahead.clear()
        self.on_end()

    # -- as a cluster

    async def refresh(self) -> None:
        """Know everything already."""

    async def starts(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return where the sources begin."""
        return {tp: self.sources[tp].begin for tp in partitions}

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return where the sources end."""
        return {tp: self.sources[tp].end for tp in partitions}

    def topic_id(self, topic: str) -> bytes:
        """Return a topic's id."""
        return self.ids.get(topic, topic.encode().ljust(16, b"."))


class FakeFetcher:
    """Gives what is in the sources, from wherever it was told to read."""

    def __init__(self, broker: FakeBroker) -> None:
        self._sources = broker.sources
        self.positions: dict[TP, int] = {}
        self.assigned: list[tuple[TP, int, int]] = []
        self.has_records = asyncio.Event()
        broker.on_end = self.has_records.set
        self.damaged: set[TP] = set()
        self.passed: list[tuple[TP, int]] = []

    def assign(self, tp: TP, offset: int, epoch: int = -1) -> None:
        """Read from an offset on."""
        self.positions[tp] = offset
        self.assigned.append((tp, offset, epoch))
        self.has_records.set()

    def drop(self, partitions: Iterable[TP]) -> None:
        """Read no more."""
        for tp in partitions:
            self.positions.pop(tp, None)

    def ready(self) -> list[TP]:
        """Return where something waits."""
        return [tp for tp, at in self.positions.items() if at < self._sources[tp].stable_end]

    def has(self, tp: TP) -> bool:
        """Return whether something waits."""
        return tp in self.ready()

    def is_at_end(self, tp: TP, offset: int) -> bool:
        """Return whether nothing is behind an offset."""
        return self.positions.get(tp) == offset and self._sources[tp].end <= offset

    def pass_to(self, tp: TP, offset: int) -> None:
        """Give nothing below an offset."""
        self.positions[tp] = offset
        self.passed.append((tp, offset))

    def take(self, tp: TP, max_records: int, max_bytes: int) -> Taken:
        """Take the next records."""
        assert max_records > 0
        assert max_bytes > 0
        if tp in self.damaged:
            raise CorruptBatchError(f"{tp.topic}: damaged")
        log, at = self._sources[tp], self.positions[tp]
        waiting = [record for record in log.records if at <= record.offset < log.stable_end]
        some = waiting[:max_records]
        end = log.stable_end if len(some) == len(waiting) else some[-1].offset + 1
        self.positions[tp] = end
        return Taken(cast(Any, some), end, log.epoch)


def write_rows(topic: str, partition: int, records: Sequence[Any], changes: Changes) -> None:
    """Write a row of each record, and tell of it."""
    for record in records:
        changes.rows[b"%s-%d" % (topic.encode(), record.offset)] = b"row"
        changes.send(Outgoing("told", partition, b"%d" % record.offset, None))
        changes.settled.append(record.offset)


Decide = Callable[[str, int, Sequence[Any], Changes], None]


class World:
    """A worker's engine, without Faust and without a broker."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.fetcher = FakeFetcher(self.broker)
        self.partitions = Partitions()
        self.stores: dict[str, FakeStore] = {}
        self.changelogs: dict[str, FakeChangelog] = {}
        for name, sources in TABLES.items():
            store = self.stores[name] = FakeStore()
            changelog = FakeChangelog(f"{name}-changelog", store, self.broker)
            self.changelogs[name] = changelog
            self.partitions.add(AppliedTable(name, sources, changelog, cast(Any, store), RULES))
        self.fenced: list[Member] = []
        self.failures: list[Exception] = []
        #: Whether a table that was sealed goes on here after all.
        self.stands = False
        #: What the group remembers; None while some of it is pending.
        self.group_offsets: dict[TP, int] | None = {}
        self.opening = Opening(
            "app",
            Connection("nowhere:1"),
            Reading(cast(Any, self.broker), cast(Any, SimpleNamespace(committed=self._offsets))),
            self._require_current,
        )
        self.cycles = Cycles(
            self.partitions,
            cast(Any, self.fetcher),
            cast(Any, self.broker),
            self.opening,
            Callbacks(lambda member, _: self.fenced.append(member), self._fail),
        )
        self.decide: Decide = write_rows
        #: What the agents were given: topic, partition and offsets of each slice.
        self.decided: list[tuple[str, int, list[int]]] = []
        self.agent_rests: asyncio.Event | None = None
        self._agent: asyncio.Task[None] | None = None

    async def _offsets(self, sources: Sequence[TP]) -> Mapping[TP, int] | None:
        return self.group_offsets

    async def _require_current(self) -> None:
        if not self.stands:
            raise NotWrittenError("the registry is being repartitioned")

    async def _fail(self, error: Exception) -> None:
        self.failures.append(error)

    # -- the agents

    async def _play_agents(self) -> None:
        while True:
            batch: Batch = await self.cycles.batches.get()
            async with batch:
                if self.agent_rests is not None:
                    await self.agent_rests.wait()
                async for partition, records, changes in batch.slices():
                    offsets = [record.offset for record in records]
                    self.decided.append((batch.topic, partition, offsets))
                    self.decide(batch.topic, partition, records, changes)

    # -- its life

    async def own(self, *keys: tuple[str, int]) -> None:
        """Open partitions and apply what comes."""
        for name, number in keys:
            table = self.partitions.tables[name]
            owned = OwnedPartition(table, number, self.partitions.lease)
            self.partitions.own(owned)
            await owned.open(self.opening)
        await self.begin()

    async def begin(self) -> None:
        """Apply what comes to the partitions that are owned."""
        if self._agent is None:
            self._agent = asyncio.create_task(self._play_agents())
        if not self.broker.is_started:
            await self.broker.start()
        self.cycles.begin(MEMBER)
        for owned in self.partitions.owned():
            if not owned.is_open:
                await owned.open(self.opening)
            self.cycles.read(owned)

    async def stop(self) -> None:
        """Stop everything."""
        await self.cycles.settle()
        if self._agent is not None:
            self._agent.cancel()
            await asyncio.wait([self._agent])

    # -- what comes, and what comes of it

    def arrive(self, topic: str, number: int, count: int, value: bytes = b"value") -> None:
        """Write records to a source."""
        log = self.broker.sources[TP(topic, number)]
        log.records += [Record(value, log.end + each) for each in range(count)]
        log.end += count
        self.fetcher.has_records.set()

    def arrive_control(self, topic: str, number: int) -> None:
        """Write a control record to a source."""
        self.broker.sources[TP(topic, number)].end += 1
        self.fetcher.has_records.set()

    def owned(self, name: str, number: int) -> OwnedPartition:
        """Return a partition."""
        found = self.partitions.get(name, number)
        assert found is not None
        return found

    async def applied(self, topic: str, number: int, end: int) -> None:
        """Wait until everything of a source below an offset is applied."""
        owned = self.partitions.at(TP(topic, number))
        assert owned is not None
        await until(lambda: bool(self.failures) or (owned.is_open and owned.applied(topic) >= end))
        if self.failures:
            raise self.failures[0]

    def rows(self, name: str, number: int) -> list[bytes]:
        """Return the keys of the rows that were committed, in order, markers left out."""
        changelog = self.broker.changelogs[TP(f"{name}-changelog", number)]
        return [key for rows in changelog for key in rows if key != MARKER_KEY]

    def order(self, topic: str, number: int) -> list[int]:
        """Return the offsets of a source whose rows were committed, in order."""
        name = next(name for name, sources in TABLES.items() if topic in sources)
        prefix = topic.encode() + b"-"
        keys = (key for key in self.rows(name, number) if key.startswith(prefix))
        return [int(key.removeprefix(prefix)) for key in keys]

    def told(self) -> list[bytes | None]:
        """Return the keys of what was told to others, in order."""
        return [key for each in self.broker.committed for _, key in each.outgoing]


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not holds():
            await asyncio.sleep(0.0005)


async def soon(awaited: Awaitable[Any]) -> None:
    """Wait for something that must come."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await awaited


async def a_while(cycles: int = 20) -> None:
    """Let everything go on that can."""
    for _ in range(cycles):
        await asyncio.sleep(0.001)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Return an engine that has no partitions yet."""
    for name in ("CYCLE", "OPENING"):
        policy = replace(getattr(retries, name), first_seconds=0.001, longest_seconds=0.01)
        monkeypatch.setattr(retries, name, policy)
    monkeypatch.setattr(retries, "BLOCKED", replace(retries.BLOCKED, first_seconds=0.02))
    made = World()
    yield made
    if made.broker.held is not None:
        made.broker.held.set()
    await made.stop()


# -- a cycle


async def test_records_are_applied_in_order_each_time_with_the_marker_behind_them(
    world: World,
) -> None:
    await world.own(("users", 3))
    world.arrive("source", 3, 5)
    await world.applied("source", 3, 5)
    world.arrive("source", 3, 4)
    await world.applied("source", 3, 9)
    assert world.order("source", 3) == list(range(9))
    committed = world.broker.changelogs[TP("users-changelog", 3)]
    markers = [Marker.decode(rows[MARKER_KEY] or b"") for rows in committed]
    assert [marker.next for marker in markers] == [
        {"verdicts": 0, "source": 5},
        {"verdicts": 0, "source": 9},
    ]
    assert [list(rows)[-1] for rows in committed] == [MARKER_KEY] * 2
    assert world.stores["users"].at[3] == 1
    assert world.stores["users"].rows[3].keys() >= {b"source-0", b"source-8", MARKER_KEY}


async def test_verdicts_are_decided_before_the_records_that_may_wait_for_them(
    world: World,
) -> None:
    world.arrive("source", 1, 2)
    world.arrive("claims", 1, 2)
    world.arrive("verdicts", 1, 2)
    world.arrive("verdicts", 0, 1)
    await world.own(("users", 0), ("users", 1), ("emails", 1))
    await world.applied("source", 1, 2)
    assert [topic for topic, _, _ in world.decided] == ["verdicts", "verdicts", "source", "claims"]
    assert len(world.broker.committed) == 1
    assert world.rows("users", 1) == [b"verdicts-0", b"verdicts-1", b"source-0", b"source-1"]


async def test_one_transaction_writes_all_partitions_and_commits_each_of_their_sources(
    world: World,
) -> None:
    world.arrive("verdicts", 1, 7)
    world.arrive("source", 0, 2)
    world.arrive("claims", 2, 3)
    await world.own(("users", 0), ("users", 1), ("users", 2), ("emails", 2))
    await world.applied("claims", 2, 3)
    (committed,) = world.broker.committed
    assert committed.member == MEMBER
    assert set(committed.rows) == {
        TP("users-changelog", 0),
        TP("users-changelog", 1),
        TP("emails-changelog", 2),
    }
    # Also of sources of which nothing has come: the fence is for the whole partition.
    assert committed.offsets == {
        TP("source", 0): 2,
        TP("verdicts", 0): 0,
        TP("source", 1): 0,
        TP("verdicts", 1): 7,
        TP("claims", 2): 3,
    }
    assert len(committed.outgoing) == 12


async def test_what_partitions_send_to_the_same_place_goes_there_together(world: World) -> None:
    def tell(topic: str, partition: int, records: Sequence[Any], changes: Changes) -> None:
        changes.send(Outgoing("told", 9, b"%d" % partition, None))

    world.decide = tell
    world.arrive("source", 0, 1)
    world.arrive("source", 1, 1)
    await world.own(("users", 0), ("users", 1))
    await world.applied("source", 1, 1)
    (committed,) = world.broker.committed
    assert committed.outgoing == [(TP("told", 9), b"0"), (TP("told", 9), b"1")]


async def test_control_records_move_the_position_and_write_nothing(world: World) -> None:
    await world.own(("users", 3))
    world.arrive_control("source", 3)
    world.arrive_control("source", 3)
    await world.applied("source", 3, 2)
    assert world.broker.commits == 0
    # The next transaction tells so.
    world.arrive("verdicts", 3, 1)
    await world.applied("verdicts", 3, 1)
    (committed,) = world.broker.committed
    assert committed.offsets[TP("source", 3)] == 2
    assert world.owned("users", 3).marker.next == {"verdicts": 1, "source": 2}


async def test_offsets_of_control_records_are_committed_once_nothing_comes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the group would seem to be behind for ever."""
    monkeypatch.setattr(engine, "IDLE_SECONDS", 0.01)
    await world.own(("users", 3))
    world.arrive_control("source", 3)
    await until(lambda: bool(world.broker.committed))
    await asyncio.sleep(0.05)
    (transaction,) = world.broker.committed
    assert transaction.offsets[TP("source", 3)] == 1


async def test_control_records_beside_records_of_others_are_in_no_transaction(
    world: World,
) -> None:
    world.arrive_control("source", 0)
    world.arrive("source", 1, 1)
    await world.own(("users", 0), ("users", 1))
    await world.applied("source", 0, 1)
    await world.applied("source", 1, 1)
    assert [set(each.rows) for each in world.broker.committed] == [{TP("users-changelog", 1)}]


async def test_a_cycle_takes_no_more_than_it_may_and_of_each_partition_alike(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.cycles._size.records = MAX_RECORDS
    for number in range(4):
        world.arrive("source", number, MAX_RECORDS)
    await world.own(*(("users", number) for number in range(4)))
    await world.applied("source", 3, MAX_RECORDS)
    await world.applied("source", 0, MAX_RECORDS)
    sizes = [{tp.partition: len(r) - 1 for tp, r in c.rows.items()} for c in world.broker.committed]
    assert sizes[0] == dict.fromkeys(range(4), MAX_RECORDS // 4)
    assert max(sum(of.values()) for of in sizes) <= MAX_RECORDS
    assert all(world.order("source", n) == list(range(MAX_RECORDS)) for n in range(4))


async def test_a_cycle_is_short_while_deciding_is_slow(world: World) -> None:
    """It takes few enough records that deciding them ends soon."""
    world.cycles._size.records = 16
    world.arrive("source", 0, 2_000)
    await world.own(("users", 0))
    await until(lambda: len(world.broker.committed) > 0)
    rows = world.broker.committed[0].rows[TP("users-changelog", 0)]
    assert len(rows) - 1 <= 16 * engine.MAX_SLICES


async def test_records_that_are_sent_first_are_named_by_their_offsets(world: World) -> None:
    def move(topic: str, partition: int, records: Sequence[Any], changes: Changes) -> None:
        def noted(offset: int) -> None:
            changes.rows[b"moved"] = b"%d" % offset
            changes.send(Outgoing("told", partition, b"moved", None))

        changes.noted.append((Outgoing("elsewhere", 1, b"k", b"v"), noted))

    world.broker.sources[TP("elsewhere", 1)].end = 100
    world.decide = move
    world.arrive("source", 3, 1)
    await world.own(("users", 3))
    await world.applied("source", 3, 1)
    assert world.rows("users", 3) == [b"moved"]
    (rows,) = world.broker.changelogs[TP("users-changelog", 3)]
    assert list(rows)[-1] == MARKER_KEY
    assert world.stores["users"].rows[3][b"moved"] == b"100"
    assert world.told() == [b"k", b"moved"]


# -- what a worker sends to itself

CLAIMS, VERDICTS = TP("claims", 1), TP("verdicts", 3)


def claim_and_settle(topic: str, partition: int, records: Sequence[Any], changes: Changes) -> None:
    """Send a claim of each record, and a verdict of each claim."""
    write_rows(topic, partition, records, changes)
    for record in records:
        if topic == "source":
            changes.likely |= {VERDICTS}
            changes.send(Outgoing(*CLAIMS, b"claim-%d" % record.offset, b"value"))
        elif topic == "claims":
            changes.send(Outgoing(*VERDICTS, b"verdict-%d" % record.offset, b"value"))


async def test_what_is_sent_to_a_partition_of_the_worker_is_applied_in_the_same_transaction(
    world: World,
) -> None:
    world.decide = claim_and_settle
    world.arrive("source", 3, 2)
    await world.own(("users", 3), ("emails", 1))
    await world.applied("verdicts", 3, 2)
    (committed,) = world.broker.committed
    assert world.decided == [("source", 3, [0, 1]), ("claims", 1, [0, 1]), ("verdicts", 3, [0, 1])]
    assert committed.offsets == {TP("source", 3): 2, VERDICTS: 2, CLAIMS: 2}
    assert world.rows("users", 3) == [b"source-0", b"source-1", b"verdicts-0", b"verdicts-1"]
    assert world.rows("emails", 1) == [b"claims-0", b"claims-1"]
    sent = [(tp, key) for tp, key in committed.outgoing if tp in (CLAIMS, VERDICTS)]
    assert sent == [
        (CLAIMS, b"claim-0"),
        (CLAIMS, b"claim-1"),
        (VERDICTS, b"verdict-0"),
        (VERDICTS, b"verdict-1"),
    ]
    assert {TP("users-changelog", 3), TP("emails-changelog", 1), VERDICTS} <= world.broker.joined


async def test_it_goes_on_with_each_transaction(world: World) -> None:
    world.decide = claim_and_settle
    await world.own(("users", 3), ("emails", 1))
    for number in range(3):
        world.arrive("source", 3, 1)
        # What ended the transaction before has an offset, too.
        await world.applied("verdicts", 3, 2 * number + 1)
    assert len(world.broker.committed) == 3
    assert world.order("claims", 1) == world.order("verdicts", 3) == [0, 2, 4]


@pytest.mark.parametrize("at", [CLAIMS, VERDICTS])
async def test_what_others_have_sent_before_comes_first(world: World, at: TP) -> None:
    """It is known only once both are read: nothing is stepped over, or decided twice."""
    world.decide = claim_and_settle
    await world.own(("users", 3), ("emails", 1))
    world.broker.between[at] = 1
    world.broker.sources[at].records.append(Record(b"value", 0, key=b"other"))
    world.arrive("source", 3, 1)
    await world.applied("source", 3, 1)
    world.fetcher.has_records.set()
    await world.applied("verdicts", 3, 2)
    assert world.order(at.topic, at.partition) == [0, 1]
    of_claims = [o for topic, _, offsets in world.decided if topic == "claims" for o in offsets]
    assert of_claims == sorted(set(of_claims))


async def test_what_others_have_sent_in_between_is_not_stepped_over(world: World) -> None:
    world.decide = claim_and_settle
    await world.own(("users", 3), ("emails", 1))
    world.broker.among[CLAIMS] = 1
    world.arrive("source", 3, 2)
    await world.applied("source", 3, 2)
    world.fetcher.has_records.set()
    await world.applied("claims", 1, 3)
    assert world.order("claims", 1) == [0, 1, 2]


async def test_what_waits_in_the_partition_already_comes_first(world: World) -> None:
    world.decide = claim_and_settle
    world.cycles._size.records = 16
    world.arrive("claims", 1, 3_000)
    world.arrive("source", 3, 1)
    await world.own(("users", 3), ("emails", 1))
    await world.applied("claims", 1, 3_001)
    assert world.order("claims", 1) == sorted(world.order("claims", 1))
    assert len(world.order("claims", 1)) == 3_001


@pytest.mark.parametrize("others", [1, 15, 16, 17, 100])
async def test_what_comes_while_the_cycle_is_decided_is_applied_before_what_it_sends(
    world: World, others: int
) -> None:
    def meanwhile(topic: str, partition: int, records: Sequence[Any], changes: Changes) -> None:
        claim_and_settle(topic, partition, records, changes)
        if topic == "source":
            world.arrive("claims", 1, others)

    world.decide = meanwhile
    world.cycles._size.records = 16
    await world.own(("users", 3), ("emails", 1))
    world.arrive("source", 3, 1)
    await world.applied("claims", 1, others + 1)
    assert world.order("claims", 1) == list(range(others + 1))
    taken = [o for topic, _, offsets in world.decided if topic == "claims" for o in offsets]
    assert taken == list(range(others + 1))


async def test_what_belongs_to_another_worker_is_only_sent(world: World) -> None:
    world.decide = claim_and_settle
    world.arrive("source", 3, 1)
    await world.own(("users", 3))
    await world.applied("source", 3, 1)
    assert [topic for topic, _, _ in world.decided] == ["source"]
    assert b"claim-0" in world.told()
    assert world.broker.joined == set()


async def test_where_sources_end_nothing_is_applied_beyond(world: World) -> None:
    world.decide = claim_and_settle
    await world.own(("users", 3), ("emails", 1))
    world.partitions.ends = {CLAIMS: 0}
    world.arrive("source", 3, 1)
    await world.applied("source", 3, 1)
    await a_while()
    assert [topic for topic, _, _ in world.decided] == ["source"]


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_failure_on_the_way_is_read_again_and_nothing_counts_twice(
    world: World, is_written: bool
) -> None:
    world.decide = claim_and_settle
    await world.own(("users", 3), ("emails", 1))
    world.broker.failures = [(NotWrittenError("a time-out"), is_written)]
    world.arrive("source", 3, 1)
    await world.applied("source", 3, 1)
    await until(lambda: len(world.order("verdicts", 3)) == 1)
    assert len(world.order("claims", 1)) == 1
    assert len(world.order("source", 3)) == 1


async def test_what_fails_while_it_is_sent_is_read_again(world: World) -> None:
    world.decide = claim_and_settle
    await world.own(("users", 3), ("emails", 1))
    world.broker.send_failures = [NotWrittenError("a time-out")]
    world.arrive("source", 3, 1)
    await until(lambda: len(world.order("verdicts", 3)) == 1)
    assert world.broker.starts_of_producer == 2
    assert world.order("source", 3) == [0]


async def test_a_record_at_which_deciding_fails_is_named_by_where_it_can_be_read(
    world: World,
) -> None:
    """What was only sent is in the log of nobody once its transaction is aborted."""

    def fail(topic: str, partition: int, records: Sequence[Any], changes: Changes) -> None:
        claim_and_settle(topic, partition, records, changes)
        if topic == "claims":
            raise LookupError("a bug")

    world.decide = fail
    await world.own(("users", 3), ("emails", 1))
    world.arrive("source", 3, 1)
    await until(lambda: bool(world.failures))
    (told,) = map(str, world.failures)
    (claim,) = world.broker.sources[CLAIMS].records
    assert told.startswith(f"claims, partition 1: record {claim.offset}: deciding fails")
    assert world.order("source", 3) == [0]


async def test_a_rebalance_in_the_middle_leaves_nothing_that_counts(world: World) -> None:
    world.decide = claim_and_settle
    await world.own(("users", 3), ("emails", 1))
    rests = asyncio.Event()

    def rest(topic: str, partition: int, records: Sequence[Any], changes: Changes) -> None:
        claim_and_settle(topic, partition, records, changes)
        world.agent_rests = rests

    world.decide = rest
    world.arrive("source", 3, 1)
    await until(lambda: bool(world.broker.ahead))
    await soon(world.cycles.settle())
    # Nobody waits behind what was sent.
    assert world.broker.ahead == []
    assert world.broker.committed == []
    rests.set()
    world.decide = claim_and_settle
    await world.begin()
    await until(lambda: len(world.order("verdicts", 3)) == 1)
    assert (len(world.order("claims", 1)), world.order("source", 3)) == (1, [0])


async def test_a_log_that_lost_what_was_applied_unread_is_noticed_when_it_is_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.decide = claim_and_settle
    world.arrive("claims", 1, 1)
    await world.own(("users", 3), ("emails", 1))
    await world.applied("claims", 1, 1)
    world.arrive("source", 3, 1)
    await world.applied("claims", 1, 2)
    asked: list[tuple[TP, int, int]] = []

    async def diverges_at(cluster: Any, tp: TP, offset: int, epoch: int) -> int | None:
        asked.append((tp, offset, epoch))
        return 0 if tp == CLAIMS else None

    monkeypatch.setattr(partitions_module, "diverges_at", diverges_at)
    await world.cycles.settle()
    owned = OwnedPartition(world.partitions.tables["emails"], 1, world.partitions.lease)
    with pytest.raises(LostRecordsError, match="claims, partition 1: records from 0 to 1"):
        await owned.open(world.opening)
    assert asked == [(CLAIMS, 1, EPOCH)]


async def test_what_counts_commits_is_called_once_it_is_committed(world: World) -> None:
    called: list[int] = []

    def count(topic: str, partition: int, records: Sequence[Any], changes: Changes) -> None:
        write_rows(topic, partition, records, changes)
        changes.on_commit.append(lambda: called.append(len(records)))

    world.decide = count
    world.broker.failures = [(NotWrittenError("?"), False)]
    world.arrive("source", 3, 3)
    await world.own(("users", 3))
    await world.applied("source", 3, 3)
    assert called == [3]


# -- what fails


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_commit_of_unknown_outcome_is_found_out_and_done_once(
    world: World, is_written: bool
) -> None:
    world.broker.failures = [(NotWrittenError("?"), is_written), (NotWrittenError("?"), False)]
    world.arrive("source", 0, 3)
    world.arrive("source", 1, 3)
    await world.own(("users", 0), ("users", 1))
    await world.applied("source", 1, 3)
    world.arrive("source", 0, 3)
    await world.applied("source", 0, 6)
    assert world.order("source", 0) == list(range(6))
    assert world.order("source", 1) == list(range(3))
    assert len(world.told()) == 9
    # Each time the producer was started anew, which ends what it has left open.
    assert world.broker.starts_of_producer == 3
    assert world.owned("users", 0).trouble is None


async def test_a_producer_that_cannot_be_started_is_tried_again(world: World) -> None:
    world.broker.failures = [(NotWrittenError("?"), True)]
    world.broker.start_failures = []
    await world.own(("users", 0))
    world.broker.start_failures = [NotWrittenError("away"), NotWrittenError("away")]
    world.arrive("source", 0, 3)
    await world.applied("source", 0, 3)
    assert world.order("source", 0) == [0, 1, 2]
    assert world.broker.start_failures == []


async def test_rows_that_are_committed_but_not_stored_come_from_the_changelog(
    world: World,
) -> None:
    world.stores["users"].failures = [StoreError("no space left"), StoreError("no space left")]
    world.arrive("source", 3, 3)
    await world.own(("users", 3))
    await world.applied("source", 3, 3)
    assert world.order("source", 3) == [0, 1, 2]
    assert set(world.stores["users"].rows[3]) == {
        b"source-0",
        b"source-1",
        b"source-2",
        MARKER_KEY,
    }


@pytest.mark.parametrize("is_written", [False, True])
async def test_who_waits_is_woken_when_an_unknown_outcome_is_found_out(
    world: World, is_written: bool
) -> None:
    await world.own(("users", 3))
    waiting = asyncio.create_task(world.owned("users", 3).settled(1))
    await asyncio.sleep(0)
    world.broker.failures = [(NotWrittenError("?"), is_written)]
    world.arrive("source", 3, 2)
    await soon(waiting)
    await world.applied("source", 3, 2)
    assert b"source-1" in world.stores["users"].rows[3]


async def test_who_waits_is_woken_when_rows_were_committed_but_not_stored(world: World) -> None:
    """What was committed is applied only once: nothing else would ever wake them."""
    await world.own(("users", 3), ("users", 4))
    woken_with: list[bool] = []

    async def wait_for(number: int) -> None:
        await world.owned("users", number).settled(1)
        woken_with.append(b"source-1" in world.stores["users"].rows[number])

    waiting = [asyncio.create_task(wait_for(number)) for number in (3, 4)]
    await asyncio.sleep(0)
    world.stores["users"].failures = [StoreError("no space left")]
    world.arrive("source", 3, 2)
    world.arrive("source", 4, 2)
    await soon(asyncio.gather(*waiting))
    assert woken_with == [True, True]
    assert len(world.broker.committed) == 1


async def test_while_it_is_found_out_rows_are_not_shown(world: World) -> None:
    await world.own(("users", 3), ("users", 4))
    held = world.changelogs["users"].held = asyncio.Event()
    world.broker.failures = [(NotWrittenError("?"), True)]
    world.arrive("source", 3, 3)
    await until(lambda: not world.owned("users", 3).is_open)
    await a_while()
    assert not world.owned("users", 3).answers
    assert world.owned("users", 3).trouble == "?"
    # Nothing of the other one is in doubt.
    assert world.owned("users", 4).answers
    held.set()
    await world.applied("source", 3, 3)
    assert world.owned("users", 3).answers


async def test_fenced_means_that_nothing_more_is_written_or_answered(world: World) -> None:
    await world.own(("users", 3), ("emails", 5))
    world.broker.failures = [(FencedError("another"), False)]
    world.arrive("source", 3, 3)
    await until(lambda: bool(world.fenced))
    world.arrive("source", 3, 3)
    await a_while()
    assert world.fenced == [MEMBER]
    assert not world.owned("users", 3).is_open
    # Others may own all of it by now, and not only what the cycle wrote.
    assert not world.owned("emails", 5).answers
    assert world.broker.commits == 1
    assert (world.order("source", 3), world.stores["users"].rows[3]) == ([], {})
    assert world.broker.starts_of_producer == 1
    assert not world.failures


async def test_who_was_fenced_goes_on_as_a_member_of_the_next_generation(world: World) -> None:
    await world.own(("users", 3))
    world.broker.failures = [(FencedError("another"), False)]
    world.arrive("source", 3, 3)
    await until(lambda: bool(world.fenced))
    await world.cycles.settle()
    await world.begin()
    await world.applied("source", 3, 3)
    assert world.order("source", 3) == [0, 1, 2]


@pytest.mark.parametrize("error", [ApplyError("never"), ValueError("a bug")])
async def test_what_cannot_be_mended_ends_the_worker_with_its_cause(
    world: World, error: Exception
) -> None:
    await world.own(("users", 3))
    world.broker.failures = [(error, False)]
    world.arrive("source", 3, 3)
    await until(lambda: bool(world.failures))
    assert world.failures == [error]
    assert not world.owned("users", 3).is_open


async def test_records_that_are_damaged_end_the_worker(world: World) -> None:
    await world.own(("users", 3))
    world.fetcher.damaged.add(TP("source", 3))
    world.arrive("source", 3, 3)
    await until(lambda: bool(world.failures))
    assert isinstance(world.failures[0], CorruptBatchError)
    assert world.broker.commits == 0


async def test_a_disk_that_stays_bad_ends_the_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "OPENING", replace(retries.OPENING, limit_seconds=0.05))
    await world.own(("users", 3))
    world.stores["users"].broken = StoreError("no space left")
    world.arrive("source", 3, 3)
    await until(lambda: bool(world.failures))
    assert isinstance(world.failures[0], StoreError)
    assert world.order("source", 3) == [0, 1, 2]


async def test_a_broker_that_stays_away_ends_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "OPENING", replace(retries.OPENING, limit_seconds=0.01))
    await world.own(("users", 3))
    world.broker.failures = [(NotWrittenError("?"), False)]
    world.broker.start_failures = [NotWrittenError("away") for _ in range(5)]
    world.arrive("source", 3, 3)
    await world.applied("source", 3, 3)
    assert not world.failures


# -- what the broker does not take


def more_than(most: int) -> Callable[[TP, Sequence[Any]], bool]:
    """Return what refuses more rows than that, the marker left out."""
    return lambda tp, records: tp.topic.endswith("changelog") and len(records) - 1 > most


async def test_what_is_too_large_together_is_written_in_halves(world: World) -> None:
    world.broker.is_too_large = more_than(5)
    world.arrive("source", 3, 40)
    await world.own(("users", 3))
    await world.applied("source", 3, 40)
    assert world.order("source", 3) == list(range(40))
    assert world.owned("users", 3).trouble is None
    assert not world.failures


async def test_one_partition_whose_batch_is_too_large_does_not_hold_up_others(
    world: World,
) -> None:
    def is_too_large(tp: TP, records: Sequence[Any]) -> bool:
        return tp == TP("users-changelog", 0) and len(records) > 2

    world.broker.is_too_large = is_too_large
    for number in range(3):
        world.arrive("source", number, 8)
    await world.own(*(("users", number) for number in range(3)))
    for number in range(3):
        await world.applied("source", number, 8)
    assert all(world.order("source", number) == list(range(8)) for number in range(3))
    sizes = [len(c.rows[tp]) for c in world.broker.committed for tp in c.rows if tp.partition]
    assert sizes == [9, 9]


async def test_a_record_that_is_too_large_lets_only_its_partition_rest(world: World) -> None:
    def is_too_large(tp: TP, records: Sequence[Any]) -> bool:
        return tp.partition == 0 and any(key == b"source-2" for _, key, _, _ in records)

    world.broker.is_too_large = is_too_large
    world.arrive("source", 0, 4)
    world.arrive("source", 1, 4)
    await world.own(("users", 0), ("users", 1))
    await world.applied("source", 1, 4)
    await world.applied("source", 0, 2)
    await until(lambda: world.cycles._rests_until != {})
    # What comes of others goes on being applied.
    world.arrive("source", 1, 4)
    await world.applied("source", 1, 8)
    await a_while()
    blocked = world.owned("users", 0)
    assert blocked.applied("source") == 2
    assert blocked.trouble == "users-changelog, partition 0: too large"
    assert blocked.answers
    assert world.owned("users", 1).trouble is None
    assert world.order("source", 0) == [0, 1]
    # It is tried again, and goes on once the broker takes it.
    tried = world.broker.commits
    await until(lambda: world.broker.commits > tried)
    world.broker.is_too_large = lambda tp, records: False
    await world.applied("source", 0, 4)
    await until(lambda: blocked.trouble is None)
    assert world.order("source", 0) == list(range(4))


async def test_after_a_batch_that_was_too_large_cycles_take_more_and_more_again(
    world: World,
) -> None:
    world.broker.is_too_large = more_than(3)
    world.arrive("source", 3, 30)
    await world.own(("users", 3))
    await world.applied("source", 3, 30)
    world.broker.is_too_large = lambda tp, records: False
    end = 30 + 2 * MAX_RECORDS
    world.arrive("source", 3, end - 30)
    await world.applied("source", 3, end)
    await until(lambda: not world.cycles._alone)
    assert world.order("source", 3) == list(range(end))


# -- a rebalance


async def test_a_rebalance_waits_for_the_cycle_that_is_under_way_and_no_other_begins(
    world: World,
) -> None:
    await world.own(("users", 3))
    held = world.broker.held = asyncio.Event()
    world.arrive("source", 3, 3)
    await until(lambda: world.broker.commits > 0)
    world.arrive("source", 3, 3)
    settling = asyncio.create_task(world.cycles.settle())
    await a_while(3)
    owned = world.owned("users", 3)
    assert not settling.done()
    assert not owned.answers
    held.set()
    await soon(settling)
    assert world.order("source", 3) == [0, 1, 2]
    assert owned.is_open
    assert not owned.answers
    await a_while()
    assert world.broker.commits == 1
    # What is kept goes on from where it was.
    await world.begin()
    assert owned.answers
    await world.applied("source", 3, 6)
    assert world.order("source", 3) == list(range(6))


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_cycle_that_does_not_end_is_cut_off_and_its_fate_looked_up(
    world: World, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.01)
    await world.own(("users", 3))
    world.broker.held = asyncio.Event()
    world.arrive("source", 3, 3)
    await until(lambda: world.broker.commits > 0)
    await soon(world.cycles.settle())
    owned = world.owned("users", 3)
    assert not owned.is_open
    assert world.stores["users"].rows[3] == {}
    if is_written:  # the broker took it all the same
        marker = owned.marker.after("source", 3)
        rows: Rows = {b"source-%d" % n: b"row" for n in range(3)}
        tp = TP("users-changelog", 3)
        world.broker.changelogs[tp].append({**rows, MARKER_KEY: marker.encode()})
    world.broker.held = None
    await world.begin()
    await world.applied("source", 3, 3)
    assert world.order("source", 3) == [0, 1, 2]


async def test_an_agent_that_does_not_answer_holds_up_no_rebalance_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.01)
    await world.own(("users", 3), ("emails", 3))
    rests = world.agent_rests = asyncio.Event()
    world.arrive("source", 3, 3)
    world.arrive("claims", 3, 3)
    await a_while()
    await soon(world.cycles.settle())
    assert world.broker.commits == 0
    assert world.cycles.batches.empty()
    # The agent wakes up late: what it decides counts for nothing.
    rests.set()
    await a_while()
    world.agent_rests = None
    await world.begin()
    await world.applied("source", 3, 3)
    await world.applied("claims", 3, 3)
    assert world.order("source", 3) == [0, 1, 2]
    assert not world.failures


async def test_a_partition_that_is_opened_again_during_a_rebalance_does_not_answer(
    world: World,
) -> None:
    """The cycle that is waited for may fail, and open its partitions again."""
    await world.own(("users", 3))
    held = world.broker.held = asyncio.Event()
    world.broker.failures = [(NotWrittenError("?"), True)]
    world.arrive("source", 3, 3)
    await until(lambda: world.broker.commits > 0)
    settling = asyncio.create_task(world.cycles.settle())
    await a_while(3)
    held.set()
    await soon(settling)
    assert not world.owned("users", 3).answers
    assert world.fetcher.positions == {}


async def test_nothing_is_read_of_partitions_that_may_have_gone(world: World) -> None:
    await world.own(("users", 3), ("emails", 3))
    assert set(world.fetcher.positions) == {TP(t, 3) for t in ("verdicts", "source", "claims")}
    await world.cycles.settle()
    assert world.fetcher.positions == {}


async def test_settling_where_nothing_was_begun_is_at_once(world: World) -> None:
    await soon(world.cycles.settle())


# -- agents


def failing_at(*offsets: int) -> Decide:
    """Return what decides records of the source, but for some."""

    def decide(topic: str, partition: int, records: Sequence[Any], changes: Changes) -> None:
        if topic == "source" and any(record.offset in offsets for record in records):
            raise LookupError("a bug")
        write_rows(topic, partition, records, changes)

    return decide


@pytest.mark.parametrize("offset", [0, 1, 700, 2_999])
async def test_a_record_that_cannot_be_decided_is_named_and_all_before_it_are_applied(
    world: World, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.decide = failing_at(offset)
    world.arrive("source", 3, 3_000)
    world.arrive("verdicts", 3, 5)
    await world.own(("users", 3))
    await until(lambda: bool(world.failures))
    assert isinstance(world.failures[0], DecisionError)
    assert str(world.failures[0]) == (
        f"source, partition 3: record {offset}: deciding fails (LookupError); "
        "see docs/operations.md"
    )
    assert world.order("source", 3) == list(range(offset))
    assert world.owned("users", 3).applied("source") == offset
    assert not world.owned("users", 3).is_open
    assert world._agent is not None
    assert not world._agent.done()


async def test_a_record_that_is_too_large_rests_its_partition_whatever_else_waits_there(
    world: World,
) -> None:
    def is_too_large(tp: TP, records: Sequence[Any]) -> bool:
        return tp.partition == 0 and any(key == b"source-0" for _, key, _, _ in records)

    world.broker.is_too_large = is_too_large
    world.arrive("source", 0, 2)
    world.arrive("verdicts", 0, 2)
    world.arrive("source", 1, 4)
    await world.own(("users", 0), ("users", 1))
    await world.applied("source", 1, 4)
    await until(lambda: world.cycles._rests_until != {})


async def test_an_agent_that_never_decides_ends_the_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "AGENT_SECONDS", 0.02)
    await world.own(("users", 3))
    world.agent_rests = asyncio.Event()
    world.arrive("source", 3, 3)
    await until(lambda: bool(world.failures))
    assert isinstance(world.failures[0], StuckError)
    assert "source" in str(world.failures[0])


# -- where sources end for now


async def test_a_source_that_ends_for_now_is_applied_up_to_there_and_later_further(
    world: World,
) -> None:
    await world.own(("users", 3))
    world.partitions.end_at({TP("source", 3): 5})
    world.arrive("source", 3, 8)
    await world.applied("source", 3, 5)
    world.arrive("verdicts", 3, 1)
    await world.applied("verdicts", 3, 1)
    await a_while()
    assert world.owned("users", 3).applied("source") == 5
    assert world.order("source", 3) == list(range(5))
    world.partitions.end_at({})
    await world.applied("source", 3, 8)
    assert world.order("source", 3) == list(range(8))
    assert world.broker.committed[-1].offsets[TP("source", 3)] == 8


async def test_a_source_that_ended_before_what_is_applied_rests(world: World) -> None:
    world.arrive("source", 3, 4)
    await world.own(("users", 3))
    await world.applied("source", 3, 4)
    world.partitions.end_at({TP("source", 3): 2})
    world.arrive("source", 3, 2)
    await a_while()
    assert world.owned("users", 3).applied("source") == 4


# -- tidying


async def test_a_partition_is_tidied_in_a_transaction_of_its_own(world: World) -> None:
    def tidy(partition: int, starts: Mapping[str, int], changes: Changes) -> None:
        changes.rows[b"tidied"] = b"%d" % starts["source"]

    world.partitions.keep_tidy("users", tidy)
    for number in (0, 1):
        world.broker.sources[TP("source", number)] = Log([], 7, 7)
    await world.own(("users", 0), ("users", 1), ("emails", 0))
    await world.cycles.tidy()
    await until(lambda: len(world.broker.committed) == 3)
    assert [len(each.rows) for each in world.broker.committed] == [1, 1, 1]
    # The fence holds for housekeeping, too.
    for each in world.broker.committed:
        (changelog,) = each.rows
        table = changelog.topic.removesuffix("-changelog")
        assert set(each.offsets) == {TP(topic, changelog.partition) for topic in TABLES[table]}
        assert each.member == MEMBER
    assert world.stores["users"].rows[0][b"tidied"] == b"7"
    assert world.stores["users"].rows[1][b"tidied"] == b"7"
    assert set(world.stores["emails"].rows[0]) == {MARKER_KEY}
    world.arrive("source", 0, 1)
    await world.applied("source", 0, 8)
    assert len(world.broker.committed) == 4
    assert b"tidied" not in world.broker.committed[-1].rows[TP("users-changelog", 0)]


async def test_what_was_given_up_meanwhile_is_not_tidied(world: World) -> None:
    await world.own(("users", 0))
    world.cycles._untidy[("users", 0)] = {}
    world.partitions.give_up(world.partitions.owned())
    world.fetcher.has_records.set()
    await until(lambda: not world.cycles._untidy)
    await a_while()
    assert world.broker.commits == 0


# -- who waits, and how old rows are


async def test_who_waits_for_a_record_hears_when_its_rows_can_be_read(world: World) -> None:
    await world.own(("users", 3))
    waiting = asyncio.create_task(world.owned("users", 3).settled(3))
    world.arrive("source", 3, 3)
    await world.applied("source", 3, 3)
    assert not waiting.done()
    world.arrive("source", 3, 1)
    await soon(waiting)
    assert b"source-3" in world.stores["users"].rows[3]


async def test_who_waits_hears_that_the_partition_goes(world: World) -> None:
    await world.own(("users", 3))
    owned = world.owned("users", 3)
    waiting = asyncio.create_task(owned.settled(3))
    await asyncio.sleep(0)
    world.partitions.give_up([owned])
    await soon(waiting)
    assert not owned.answers
    assert world.partitions.get("users", 3) is None
    assert world.stores["users"].closed == [3]


async def test_who_gives_up_waiting_leaves_nothing(world: World) -> None:
    await world.own(("users", 3))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await world.owned("users", 3).settled(3)
    assert world.owned("users", 3)._waiters == {}


async def test_caught_up_means_that_what_is_committed_is_in_the_store(world: World) -> None:
    await world.own(("users", 3), ("users", 4))
    held = world.broker.held = asyncio.Event()
    world.arrive("source", 3, 1)
    await until(lambda: world.broker.commits > 0)
    waiting = asyncio.create_task(world.owned("users", 3).caught_up())
    await a_while()
    assert not waiting.done()
    # Of a partition that the transaction does not write there is nothing to wait for.
    await soon(world.owned("users", 4).caught_up())
    held.set()
    await soon(waiting)
    assert b"source-0" in world.stores["users"].rows[3]


async def test_a_commit_confirms_membership_from_when_it_was_begun(world: World) -> None:
    """While its answer is under way, the broker may give the partitions away."""
    now = Moment(1.0, 1.0)
    lease = world.partitions.lease = Lease(clock=lambda: now)
    await world.own(("users", 3))
    assert not world.partitions.owns("users", 3)
    held = world.broker.held = asyncio.Event()
    world.arrive("source", 3, 1)
    await until(lambda: world.broker.commits > 0)
    now = Moment(5.0, 5.0)
    held.set()
    await world.applied("source", 3, 1)
    assert lease.confirmed_at == 1.0
    assert world.partitions.owns("users", 3)
    now = Moment(1.0 + lease.session_seconds, 1.0 + lease.session_seconds)
    assert not world.partitions.owns("users", 3)


async def test_while_the_lease_holds_the_store_is_complete(world: World) -> None:
    await world.own(("users", 3))
    owned, lease = world.owned("users", 3), world.partitions.lease
    lease.renew(Moment(7.0, 0.0))
    assert owned.complete_at == 7.0
    lease.renew(Moment(9.0, 0.0))
    await world.cycles.settle()
    lease.renew(Moment(20.0, 0.0))
    assert owned.complete_at == 9.0
    assert world.partitions.complete_at("users", 3) == 9.0


async def test_what_may_be_committed_unseen_is_not_called_complete(world: World) -> None:
    await world.own(("users", 3))
    owned, lease = world.owned("users", 3), world.partitions.lease
    lease.renew(Moment(7.0, 0.0))
    world.changelogs["users"].held = asyncio.Event()
    world.broker.failures.append((NotWrittenError("no answer"), True))
    world.arrive("source", 3, 5)
    await until(lambda: not owned.answers)
    lease.renew(Moment(20.0, 0.0))
    assert owned.complete_at == 7.0


# -- opening


async def opened(world: World, *markers: Marker) -> OwnedPartition:
    """Open a partition whose changelog has markers."""
    for marker in markers:
        world.broker.changelogs[TP("users-changelog", 3)].append({MARKER_KEY: marker.encode()})
    owned = OwnedPartition(world.partitions.tables["users"], 3, world.partitions.lease)
    await owned.open(world.opening)
    return owned


def marker(**members: Any) -> Marker:
    """Return a marker of our rules."""
    return Marker(**{"log": "log", "rules": RULES, "next": {"source": 5, "verdicts": 9}, **members})


async def test_a_new_table_begins_where_its_source_begins(world: World) -> None:
    world.broker.sources[TP("source", 3)] = Log([], 8, 20)
    owned = await opened(world)
    assert (owned.applied("source"), owned.applied("verdicts")) == (8, 0)
    assert owned.marker.rules == RULES


async def test_who_reads_from_a_beginning_looks_what_others_made_of_it(world: World) -> None:
    """Under another APP_ID, records may have been moved already."""
    looked: list[TP] = []

    async def look(source: TP) -> None:
        looked.append(source)

    world.opening = replace(world.opening, read_again=look)
    world.broker.sources[TP("source", 3)] = Log([], 8, 20)
    owned = await opened(world)
    assert looked == [TP("source", 3)]  # of verdicts there are none
    await opened(world, owned.marker.after("source", 19))
    assert looked == [TP("source", 3)] * 2
    await opened(world, owned.marker.after("source", 20))
    assert looked == [TP("source", 3)] * 2


async def test_an_empty_changelog_of_a_group_that_has_applied_something_was_lost(
    world: World,
) -> None:
    world.group_offsets = {TP("verdicts", 3): 0, TP("source", 3): 5}
    with pytest.raises(LostChangelogError) as told:
        await opened(world)
    assert str(told.value) == (
        "users-changelog, partition 3: the changelog is empty, and source was applied up to 5: the "
        "changelog was deleted; see docs/operations.md"
    )
    world.group_offsets = None
    with pytest.raises(NotWrittenError):
        await opened(world)
    world.group_offsets = {TP("verdicts", 3): 0, TP("source", 3): 0}
    assert (await opened(world)).is_open


async def test_records_are_read_from_the_marker_on_with_the_epoch_before_them(
    world: World,
) -> None:
    world.broker.sources[TP("source", 3)] = Log([], 2, 20)
    world.broker.sources[TP("verdicts", 3)] = Log([], 0, 20)
    owned = await opened(world, marker(epochs={"source": 6}))
    world.cycles.read(owned)
    assert world.fetcher.assigned == [(TP("verdicts", 3), 9, -1), (TP("source", 3), 5, 6)]
    assert owned.answers


@pytest.mark.parametrize(
    ("begin", "end", "told"),
    [
        (8, 20, "source, partition 3: records from 5 to 7 were deleted before they were applied"),
        (0, 4, "source, partition 3: 5 is the next record to apply, and the log ends at 4"),
        (6, 6, "source, partition 3: records from 5 to 5 were deleted"),
    ],
)
async def test_records_that_are_lost_unapplied_are_never_stepped_over(
    world: World, begin: int, end: int, told: str
) -> None:
    world.broker.sources[TP("source", 3)] = Log([], begin, end)
    world.broker.sources[TP("verdicts", 3)] = Log([], 0, 9)
    with pytest.raises(LostRecordsError, match=told):
        await opened(world, marker())


@pytest.mark.parametrize(("begin", "end"), [(5, 5), (0, 5), (5, 9)])
async def test_where_the_log_goes_on_from_the_marker_nothing_is_lost(
    world: World, begin: int, end: int
) -> None:
    world.broker.sources[TP("source", 3)] = Log([], begin, end)
    world.broker.sources[TP("verdicts", 3)] = Log([], 0, 9)
    owned = await opened(world, marker())
    assert owned.is_open
    assert owned.applied("source") == 5


async def test_a_source_that_was_made_anew_is_noticed_by_its_id(world: World) -> None:
    """Though it is longer than the one before: the offset alone tells nothing."""
    for topic in TABLES["users"]:
        world.broker.sources[TP(topic, 3)] = Log([], 0, 100)
    ids = {topic: short_id(world.broker.topic_id(topic)) for topic in TABLES["users"]}
    assert (await opened(world, marker(ids=ids))).marker.ids == ids
    world.broker.ids["source"] = bytes(16)
    with pytest.raises(
        LostRecordsError, match="source, partition 3: the topic was deleted and recreated; 5 was"
    ):
        await opened(world)


async def test_markers_keep_the_ids_of_topics_and_the_epochs_of_what_was_applied(
    world: World,
) -> None:
    world.broker.sources[TP("source", 3)].epoch = 11
    world.arrive("source", 3, 2)
    await world.own(("users", 3))
    await world.applied("source", 3, 2)
    (rows,) = world.broker.changelogs[TP("users-changelog", 3)]
    written = Marker.decode(rows[MARKER_KEY] or b"")
    assert written.epochs == {"source": 11}
    assert written.ids == {
        topic: short_id(world.broker.topic_id(topic)) for topic in TABLES["users"]
    }


async def test_lost_records_end_the_worker_when_a_partition_is_opened_again(
    world: World,
) -> None:
    world.arrive("source", 3, 5)
    await world.own(("users", 3))
    await world.applied("source", 3, 5)
    world.broker.failures = [(NotWrittenError("?"), False)]
    log = world.broker.sources[TP("source", 3)]
    log.end, log.begin = 9, 8
    log.records = [Record(b"value", 8)]
    world.fetcher.has_records.set()
    await until(lambda: bool(world.failures))
    assert isinstance(world.failures[0], LostRecordsError)
    assert world.order("source", 3) == list(range(5))


async def test_rows_under_other_rules_are_refused(world: World) -> None:
    with pytest.raises(ApplyError, match="another EMAIL_SECRET"):
        await opened(world, marker(rules="3:another"))


async def test_a_sealed_table_goes_on_only_where_it_stands_and_without_the_seal(
    world: World,
) -> None:
    world.broker.sources[TP("source", 3)] = Log([], 0, 4)
    sealed = Marker.first(RULES).after("source", 4).after("verdicts", 0).sealed()
    world.broker.changelogs[TP("users-changelog", 3)].append({MARKER_KEY: sealed.encode()})
    with pytest.raises(NotWrittenError, match="repartitioned"):
        await opened(world)
    assert world.broker.commits == 0
    world.stands = True
    await world.own(("users", 3))
    world.arrive("source", 3, 2)
    await world.applied("source", 3, 6)
    rows = world.broker.changelogs[TP("users-changelog", 3)][-1]
    again = Marker.decode(rows[MARKER_KEY] or b"")
    assert (again.is_sealed, again.log, again.next["source"]) == (False, sealed.log, 6)


async def test_an_emptied_table_is_refused_even_where_it_stands(world: World) -> None:
    world.stands = True
    with pytest.raises(ApplyError):
        await opened(world, Marker.last())


def test_a_marker_without_anything_new_is_written_as_ever() -> None:
    plain = Marker(log="log", next={"source": 1}, rules="rules")
    assert plain.encode() == b'{"log":"log","next":{"source":1},"rules":"rules"}'


# -- taking over from 0.8

OF_0_8 = "2:secret"


@dataclass
class OldProducer:
    """A producer under the id by which version 0.8 fences owners."""

    world: World
    transactional_id: str
    error: Exception | None = None
    seen: list[str] = field(default_factory=list)

    async def start(self) -> None:
        """Fence."""
        self.seen.append("start")
        # What was committed until now is read after this.
        late = marker(rules=OF_0_8, next={"source": 6, "verdicts": 9})
        rows: Rows = {b"late": b"row", MARKER_KEY: late.encode()}
        self.world.broker.changelogs[TP("users-changelog", 3)].append(rows)

    async def commit(self, topic: str, partition: int, rows: Rows) -> int:
        """Commit, or fail."""
        self.seen.append("commit")
        if self.error is not None:
            raise self.error
        changelog = self.world.broker.changelogs[TP(topic, partition)]
        changelog.append(rows)
        return len(changelog) - 1

    async def close(self) -> None:
        """Disconnect."""
        self.seen.append("close")


@pytest.fixture
def old_producers(world: World, monkeypatch: pytest.MonkeyPatch) -> list[OldProducer]:
    """Let producers of 0.8 be counted."""
    made: list[OldProducer] = []

    def make(_: Connection, transactional_id: str, topics: Iterable[str]) -> OldProducer:
        assert list(topics) == ["users-changelog", *TABLES["users"]]
        made.append(OldProducer(world, transactional_id))
        return made[-1]

    monkeypatch.setattr(partitions_module, "FencedProducer", make)
    for topic in TABLES["users"]:
        world.broker.sources[TP(topic, 3)] = Log([], 0, 10)
    return made


async def test_a_marker_of_0_8_is_replaced_under_the_id_that_fences_its_workers(
    world: World, old_producers: list[OldProducer]
) -> None:
    owned = await opened(world, marker(rules=OF_0_8))
    (producer,) = old_producers
    assert producer.transactional_id == "app-users-3"
    assert producer.seen == ["start", "commit", "close"]
    # What its worker committed in the last moment is there.
    assert owned.applied("source") == 6
    assert world.stores["users"].rows[3][b"late"] == b"row"
    written = Marker.decode(
        world.broker.changelogs[TP("users-changelog", 3)][-1][MARKER_KEY] or b""
    )
    assert (written.rules, written.log, written.next["source"]) == (RULES, "log", 6)
    stored = Marker.decode(world.stores["users"].rows[3][MARKER_KEY] or b"")
    assert stored == written
    # From then on it is a table of ours.
    await opened(world)
    assert len(old_producers) == 1


async def test_a_marker_of_0_8_under_another_secret_is_refused_and_fences_nobody(
    world: World, old_producers: list[OldProducer]
) -> None:
    with pytest.raises(ApplyError, match="another EMAIL_SECRET"):
        await opened(world, marker(rules="2:another"))
    assert old_producers == []


async def test_taking_over_from_0_8_that_fails_leaves_no_connection(
    world: World, old_producers: list[OldProducer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OldProducer, "error", NotWrittenError("?"), raising=False)

    async def fail(self: OldProducer, topic: str, partition: int, rows: Rows) -> int:
        raise NotWrittenError("?")

    monkeypatch.setattr(OldProducer, "commit", fail)
    with pytest.raises(RegistryError):
        await opened(world, marker(rules=OF_0_8))
    assert old_producers[0].seen == ["start", "close"]
