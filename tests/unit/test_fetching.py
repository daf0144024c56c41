"""Reading partitions: every record once, from where it was told, and nothing is stepped over."""

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, cast

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from faust.types import TP

from app.domain.errors import CorruptBatchError, KafkaAccessError, LostRecordsError
from app.kafka import fetching, protocol
from app.kafka.cluster import NO_LEADER
from app.kafka.fetching import Fetcher, Taken, _by_epoch, _Log, require_within, scan
from app.kafka.protocol import FetchAnswer, Fetched, TopicId
from app.system import retries
from tests.support.batches import ABORT, batch, marker
from tests.unit.test_engine_protocol import FETCH_REQUEST

ONE, TWO, OTHER = TP("one", 0), TP("one", 1), TP("two", 0)
TIMEOUT_SECONDS = 10.0
MANY = 1_000_000
#: Error codes.
UNKNOWN_SERVER_ERROR, NOT_LEADER, STORAGE, NOT_AUTHORIZED = -1, 6, 56, 29
LZ4 = 3


def fetched(
    data: bytes, *, aborted: Sequence[tuple[int, int]] = (), number: int = 0, **members: Any
) -> Fetched:
    """Return what a fetch gives of a partition."""
    made = Fetched(bytes(16), number, 0, 100, 100, 0, aborted, memoryview(data), None)
    return made._replace(**members)


def offsets(taken: Taken) -> list[int]:
    """Return the offsets of records."""
    return [record.offset for record in taken.records]


def values(taken: Taken) -> list[bytes | None]:
    """Return the values of records."""
    return [record.value for record in taken.records]


# -- one partition


def test_batches_are_told_apart_by_the_epoch_of_their_leader() -> None:
    first, second = batch(0, [b"a", b"b"]), batch(2, [b"c"])
    third = batch(7, [b"d"], epoch=3)
    data = memoryview(first + second + third)
    parts = [(epoch, bytes(part), end) for epoch, part, end in _by_epoch(data)]
    assert parts == [(0, first + second, 3), (3, third, 8)]


@pytest.mark.parametrize("missing", [1, 30, 60])
def test_a_batch_that_is_cut_off_is_not_there_yet(missing: int) -> None:
    data = batch(0, [b"a"]) + batch(1, [b"b" * 100])[:-missing]
    assert [end for _, _, end in _by_epoch(memoryview(data))] == [1]
    assert list(_by_epoch(memoryview(batch(0, [b"a"])[:-1]))) == []
    assert list(_by_epoch(memoryview(b""))) == []


def test_records_are_taken_over_several_fetches_with_the_epoch_of_the_last() -> None:
    log = _Log(ONE, 0, -1)
    log.add(fetched(batch(0, [b"a", b"b"], epoch=1) + batch(2, [b"c"], epoch=2)))
    log.add(fetched(batch(3, [b"d"], epoch=2)))
    assert (log.offset, log.epoch) == (4, 2)
    assert log.taken == 0
    some = log.take(1, MANY)
    assert (values(some), some.next, some.epoch) == ([b"a"], 1, 1)
    some = log.take(2, MANY)
    assert (values(some), some.next, some.epoch) == ([b"b", b"c"], 3, 2)
    rest = log.take(100, MANY)
    assert (values(rest), rest.next, rest.epoch) == ([b"d"], 4, 2)
    assert (log.buffered_bytes, len(log.buffered)) == (0, 0)


def test_what_was_taken_before_has_the_epoch_that_was_told() -> None:
    nothing = _Log(ONE, 7, 5).take(10, MANY)
    assert (nothing.records, nothing.next, nothing.epoch) == ([], 7, 5)


def test_records_before_the_position_are_left_out() -> None:
    log = _Log(ONE, 2, -1)
    log.add(fetched(batch(0, [b"a", b"b", b"c"])))
    assert offsets(log.take(10, MANY)) == [2]


def test_a_part_that_came_before_counts_once() -> None:
    log = _Log(ONE, 0, -1)
    log.add(fetched(batch(0, [b"a", b"b"])))
    log.add(fetched(batch(0, [b"a", b"b"])))
    assert offsets(log.take(10, MANY)) == [0, 1]


def test_control_records_and_what_was_aborted_move_the_position_only() -> None:
    log = _Log(ONE, 0, -1)
    log.add(fetched(batch(0, [b"a"], producer=7, epoch=4) + marker(1, 7, ABORT), aborted=[(7, 0)]))
    log.add(fetched(marker(2, 8)))
    taken = log.take(10, MANY)
    assert (taken.records, taken.next) == ([], 3)
    assert not log.buffered


def test_control_records_behind_the_last_record_belong_to_it() -> None:
    log = _Log(ONE, 0, -1)
    log.add(fetched(batch(0, [b"a", b"b"], producer=7) + marker(2, 7) + batch(3, [b"c"])))
    assert log.take(2, MANY).next in (2, 3)
    assert log.take(2, MANY).next == 4


def test_what_is_known_already_is_not_given_and_what_ends_it_tells_the_epoch() -> None:
    log = _Log(ONE, 0, 3)
    log.taken, log.taken_epoch = 2, -1
    own = batch(0, [b"a"], producer=7, epoch=4) + batch(1, [b"b"], producer=7, epoch=4)
    log.add(fetched(own))
    # Its epoch is not that of what was read before.
    assert log.take(10, MANY) == Taken([], 2, -1)
    log.add(fetched(marker(2, 7) + batch(3, [b"c"], epoch=4)))
    taken = log.take(10, MANY)
    assert (offsets(taken), taken.next, taken.epoch) == ([3], 4, 4)


async def test_the_epoch_of_what_is_passed_is_not_known(world: "World") -> None:
    world.fetcher.assign(ONE, 0, 3)
    world.fetcher.pass_to(ONE, 2)
    assert world.fetcher.take(ONE, 10, MANY) == Taken([], 2, -1)


def test_what_is_known_already_is_passed_within_a_fetch_of_aborted_transactions() -> None:
    log = _Log(ONE, 0, -1)
    log.taken = 2
    aborted = batch(0, [b"x"], producer=9) + batch(1, [b"a"]) + batch(2, [b"y"], producer=9)
    log.add(fetched(aborted + marker(3, 9, ABORT) + batch(4, [b"b"]), aborted=[(9, 0)]))
    assert offsets(log.take(10, MANY)) == [4]


def test_gaps_that_compaction_left_are_passed() -> None:
    log = _Log(ONE, 0, -1)
    log.add(fetched(batch(3, [b"a"]) + batch(90, [b"b"])))
    taken = log.take(10, MANY)
    assert (offsets(taken), taken.next) == ([3, 90], 91)


def test_what_is_taken_at_once_is_bounded_in_bytes() -> None:
    log = _Log(ONE, 0, -1)
    for number in range(20):
        log.add(fetched(batch(10 * number, [b"x" * 1_000] * 10)))
    sizes = []
    while log.buffered:
        sizes.append(len(log.take(MANY, 15_000).records))
    assert sum(sizes) == 200
    assert max(sizes) <= 30


@pytest.mark.parametrize("parts", [1, 10])
def test_it_is_bounded_in_what_it_unpacks_to(parts: int) -> None:
    """A batch of zeroes is small as it comes."""
    log = _Log(ONE, 0, -1)
    for number in range(parts):
        packed = batch(number * (100 // parts), [bytes(50_000)] * (100 // parts), compression=LZ4)
        assert len(packed) < 200_000
        log.add(fetched(packed))
    taken, sizes = [], []
    while log.buffered:
        some = log.take(MANY, 500_000)
        sizes.append(sum(len(record.value or b"") for record in some.records))
        taken += offsets(some)
    assert taken == list(range(100))
    assert max(sizes) <= 1_100_000


def test_a_damaged_batch_is_named_by_its_place() -> None:
    log = _Log(ONE, 0, -1)
    log.add(fetched(batch(0, [b"one"])[:-2] + b"!!"))
    with pytest.raises(CorruptBatchError, match=r"one, partition 0: .*offset 0.*operations\.md"):
        log.take(1, MANY)


def test_an_offset_is_within_its_log_or_its_records_are_lost() -> None:
    for offset in (5, 7, 9):
        require_within(ONE, offset, 5, 9)
    with pytest.raises(LostRecordsError, match="one, partition 0: records from 3 to 4"):
        require_within(ONE, 3, 5, 9)
    with pytest.raises(LostRecordsError, match=r"10 is the next record .* the log ends at 9"):
        require_within(ONE, 10, 5, 9)


# -- several partitions of several brokers


@dataclass
class Partition:
    """A partition as its leader has it."""

    batches: list[bytes] = field(default_factory=list)
    begin: int = 0
    end: int = 0
    stable_end: int | None = None
    leader: int = 1
    #: What the leader answers instead of records, for as long as it is set.
    error: int = 0
    diverges_at: int | None = None
    aborted: list[tuple[int, int]] = field(default_factory=list)

    def append(self, *values: bytes | None, epoch: int = 0) -> None:
        """Write a batch."""
        self.batches.append(batch(self.end, values, epoch=epoch))
        self.end += len(values)

    def from_offset(self, offset: int) -> bytes:
        """Return the batches from the one on that has an offset."""
        found = [
            each
            for each in self.batches
            if int.from_bytes(each[:8], "big") + int.from_bytes(each[23:27], "big") >= offset
        ]
        return b"".join(found)


@dataclass
class Asked:
    """A request that came."""

    node: int
    max_wait_ms: int
    isolation_level: int
    #: Offset and epoch by partition.
    wanted: dict[TP, tuple[int, int]]


@dataclass
class FakeCluster:
    """Brokers that answer fetches from memory."""

    partitions: defaultdict[TP, Partition] = field(default_factory=lambda: defaultdict(Partition))
    ids: dict[str, TopicId] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    refreshes: int = 0
    #: What is raised in place of answers.
    failures: list[Exception] = field(default_factory=list)
    refresh_failures: list[Exception] = field(default_factory=list)
    error: int = 0
    #: While set, answers are held back until it is set.
    held: asyncio.Event | None = None
    #: What a client knows: renewed by a refresh.
    known_leaders: dict[TP, int] = field(default_factory=dict)
    known_ids: dict[str, TopicId] = field(default_factory=dict)

    def know(self, *partitions: TP) -> None:
        """Let a client know partitions."""
        for tp in partitions:
            self.known_leaders[tp] = self.partitions[tp].leader
            self.known_ids[tp.topic] = self._id(tp.topic)

    def _id(self, topic: str) -> TopicId:
        return self.ids.get(topic, topic.encode().ljust(16, b"."))

    # -- what the engine asks of a cluster

    async def refresh(self) -> None:
        """Learn what is so now."""
        self.refreshes += 1
        if self.refresh_failures:
            raise self.refresh_failures.pop(0)
        self.know(*self.known_leaders)

    def leader_or_none(self, tp: TP) -> int:
        """Return who leads."""
        return self.known_leaders.get(tp, NO_LEADER)

    def leader(self, tp: TP) -> int:
        """Return who leads."""
        return self.known_leaders[tp]

    def topic_id(self, topic: str) -> TopicId:
        """Return a topic's id."""
        return self.known_ids[topic]

    async def starts(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return where logs begin."""
        return {tp: self.partitions[tp].begin for tp in partitions}

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return where logs end."""
        return {tp: self.partitions[tp].end for tp in partitions}

    async def send(self, node: int, call: Any, group: Any = None) -> FetchAnswer:
        """Answer a fetch."""
        await asyncio.sleep(0.001)
        request = FETCH_REQUEST.decode(BytesIO(call.arguments[0]))
        names = {self._id(topic): topic for topic in self.known_ids}
        wanted: dict[TP, tuple[int, int]] = {}
        places: dict[TP, TopicId] = {}
        for high, low, numbers, _ in request[7]:
            topic_id = high.to_bytes(8, "big", signed=True) + low.to_bytes(8, "big", signed=True)
            for number, _, offset, epoch, _, _, _ in numbers:
                tp = TP(names.get(topic_id, "gone"), number)
                wanted[tp], places[tp] = (offset, epoch), topic_id
        self.asked.append(Asked(node, request[1], request[4], wanted))
        answers = [self._answer(node, tp, places[tp], wanted[tp][0]) for tp in wanted]
        if self.held is not None:
            await self.held.wait()
        if self.failures:
            raise self.failures.pop(0)
        return FetchAnswer(self.error, answers)

    def _answer(self, node: int, tp: TP, topic_id: TopicId, offset: int) -> Fetched:
        if tp.topic == "gone":
            return _no_records(topic_id, tp.partition, protocol.UNKNOWN_TOPIC_ID)
        found = self.partitions[tp]
        if found.leader != node:
            return _no_records(topic_id, tp.partition, NOT_LEADER)
        if found.error:
            return _no_records(topic_id, tp.partition, found.error)
        if not found.begin <= offset <= found.end:
            return _no_records(topic_id, tp.partition, protocol.OFFSET_OUT_OF_RANGE)
        stable_end = found.end if found.stable_end is None else found.stable_end
        data = memoryview(found.from_offset(offset))
        return Fetched(
            topic_id,
            tp.partition,
            0,
            found.end,
            stable_end,
            found.begin,
            found.aborted,
            data,
            found.diverges_at,
        )


def _no_records(topic_id: TopicId, number: int, error: int) -> Fetched:
    return Fetched(topic_id, number, error, -1, -1, -1, [], memoryview(b""), None)


@dataclass
class World:
    """A fetcher and its brokers."""

    cluster: FakeCluster
    fetcher: Fetcher
    failures: list[Exception]

    async def taken(self, tp: TP, count: int) -> list[int]:
        """Take so many records; return their offsets."""
        found: list[int] = []
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(found) < count:
                await self.fetcher.has_records.wait()
                self.fetcher.has_records.clear()
                while tp in self.fetcher.ready():
                    found += offsets(self.fetcher.take(tp, MANY, MANY))
        return found

    async def failure(self) -> str:
        """Wait until the worker would end; return why."""
        await until(lambda: bool(self.failures))
        return str(self.failures[0])


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Return a fetcher of some partitions, which are still empty."""
    quick = replace(retries.FETCHING, first_seconds=0.005, longest_seconds=0.01)
    monkeypatch.setattr(retries, "FETCHING", quick)
    cluster, failures = FakeCluster(), list[Exception]()
    cluster.partitions[OTHER].leader = 2
    cluster.know(ONE, TWO, OTHER)
    fetcher = Fetcher(cast(Any, cluster), failures.append)
    fetcher.start()
    yield World(cluster, fetcher, failures)
    await fetcher.stop()


async def test_partitions_of_all_brokers_are_read_each_in_its_order(world: World) -> None:
    for tp in (ONE, TWO, OTHER):
        world.cluster.partitions[tp].append(b"a", b"b")
        world.fetcher.assign(tp, 0)
    assert await world.taken(ONE, 2) == [0, 1]
    await until(lambda: set(world.fetcher.ready()) == {TWO, OTHER})
    assert offsets(world.fetcher.take(TWO, 10, MANY)) == [0, 1]
    assert offsets(world.fetcher.take(OTHER, 10, MANY)) == [0, 1]
    world.cluster.partitions[ONE].append(b"c")
    assert await world.taken(ONE, 1) == [2]
    assert {asked.node: set(asked.wanted) for asked in world.cluster.asked[-20:]} == {
        1: {ONE, TWO},
        2: {OTHER},
    }
    assert {asked.isolation_level for asked in world.cluster.asked} == {protocol.READ_COMMITTED}
    assert not world.failures


async def test_a_fetch_names_the_epoch_of_what_was_read_before(world: World) -> None:
    world.cluster.partitions[ONE].append(b"a", epoch=3)
    world.fetcher.assign(ONE, 0, 2)
    assert await world.taken(ONE, 1) == [0]
    await until(lambda: world.cluster.asked[-1].wanted == {ONE: (1, 3)})
    assert world.cluster.asked[0].wanted == {ONE: (0, 2)}


async def test_a_partition_is_read_from_where_it_was_told(world: World) -> None:
    world.cluster.partitions[ONE].append(b"a", b"b", b"c")
    world.fetcher.assign(ONE, 2)
    assert await world.taken(ONE, 1) == [2]


async def test_what_is_known_already_is_passed_and_what_comes_then_is_given(world: World) -> None:
    assert not world.fetcher.is_at_end(ONE, 0)
    world.fetcher.assign(ONE, 0)
    assert world.fetcher.is_at_end(ONE, 0)
    world.fetcher.pass_to(ONE, 2)
    world.fetcher.pass_to(TWO, 2)
    assert world.fetcher.is_at_end(ONE, 2)
    assert not world.fetcher.is_at_end(ONE, 0)
    world.cluster.partitions[ONE].append(b"a", b"b", b"c")
    assert await world.taken(ONE, 1) == [2]
    assert not world.fetcher.is_at_end(ONE, 2)
    assert world.fetcher.is_at_end(ONE, 3)


async def test_a_partition_that_was_dropped_is_read_no_more(world: World) -> None:
    world.cluster.partitions[ONE].append(b"a")
    world.fetcher.assign(ONE, 0)
    await until(lambda: ONE in world.fetcher.ready())
    world.fetcher.drop([ONE, TWO])
    assert world.fetcher.ready() == []
    asked = len(world.cluster.asked)
    await asyncio.sleep(0.02)
    assert len(world.cluster.asked) <= asked + 1


async def test_a_fetcher_that_is_stopped_asks_nothing_more(world: World) -> None:
    world.fetcher.assign(ONE, 0)
    await until(lambda: bool(world.cluster.asked))
    await world.fetcher.stop()
    asked = len(world.cluster.asked)
    await asyncio.sleep(0.02)
    assert len(world.cluster.asked) == asked
    assert world.fetcher.ready() == []


async def test_a_fetcher_that_was_not_started_asks_nothing() -> None:
    cluster = FakeCluster()
    cluster.know(ONE)
    fetcher = Fetcher(cast(Any, cluster), lambda error: None)
    fetcher.assign(ONE, 0)
    await asyncio.sleep(0.01)
    assert cluster.asked == []
    await fetcher.stop()


# -- what is lost


@pytest.mark.parametrize(
    ("begin", "end", "told"),
    [
        (8, 20, "one, partition 0: records from 5 to 7 were deleted before they were applied"),
        (0, 3, "one, partition 0: 5 is the next record to apply, and the log ends at 3"),
    ],
)
async def test_records_that_are_gone_are_told_with_their_offsets_and_never_stepped_over(
    world: World, begin: int, end: int, told: str
) -> None:
    found = world.cluster.partitions[ONE]
    found.begin = found.end = begin
    found.append(b"later")
    found.end = end
    world.fetcher.assign(ONE, 5)
    assert told in await world.failure()
    assert all(isinstance(error, LostRecordsError) for error in world.failures)
    await asyncio.sleep(0.02)
    assert world.fetcher.ready() == []
    assert {asked.wanted[ONE] for asked in world.cluster.asked} == {(5, -1)}


async def test_records_that_go_while_it_runs_are_told_as_well(world: World) -> None:
    found = world.cluster.partitions[ONE]
    found.append(b"a", b"b")
    world.fetcher.assign(ONE, 0)
    assert await world.taken(ONE, 2) == [0, 1]
    found.batches.clear()
    found.begin, found.end = 5, 5
    found.append(b"later")
    assert "records from 2 to 4 were deleted" in await world.failure()
    assert world.fetcher.ready() == []


async def test_a_leader_that_is_behind_for_a_moment_loses_nothing(world: World) -> None:
    """It may say that an offset is out of range that others know."""
    found = world.cluster.partitions[ONE]
    found.append(b"a", b"b")
    found.error = protocol.OFFSET_OUT_OF_RANGE
    world.fetcher.assign(ONE, 1)
    await until(lambda: len(world.cluster.asked) > 2)
    found.error = 0
    assert await world.taken(ONE, 1) == [1]
    assert not world.failures


async def test_while_a_leader_is_behind_it_is_not_asked_without_a_pause(world: World) -> None:
    found = world.cluster.partitions[ONE]
    found.append(b"a", b"b")
    found.error = protocol.OFFSET_OUT_OF_RANGE
    world.fetcher.assign(ONE, 1)
    await until(lambda: len(world.cluster.asked) > 2)
    assert world.cluster.refreshes > 0


async def test_a_log_that_has_lost_its_end_is_told_by_its_epochs(world: World) -> None:
    """It may be longer again than what was read: then no offset tells."""
    found = world.cluster.partitions[ONE]
    found.append(*(b"%d" % n for n in range(9)), epoch=7)
    found.diverges_at = 4
    world.fetcher.assign(ONE, 6, 3)
    assert "records from 4 to 5 were applied, and are not in the log any more" in (
        await world.failure()
    )
    assert world.fetcher.ready() == []


async def test_a_topic_that_was_made_anew_is_told_by_its_id(world: World) -> None:
    world.cluster.partitions[ONE].append(b"a")
    world.fetcher.assign(ONE, 0)
    assert await world.taken(ONE, 1) == [0]
    world.cluster.ids["one"] = bytes(16)
    world.cluster.partitions[ONE].append(b"of another topic")
    assert "one, partition 0: the topic was deleted and recreated" in await world.failure()
    assert isinstance(world.failures[0], LostRecordsError)
    assert world.fetcher.ready() == []


# -- answers that come late


async def test_an_answer_that_comes_after_the_position_moved_back_is_dropped(
    world: World,
) -> None:
    """What it holds would otherwise be applied without what is before it."""
    found = world.cluster.partitions[ONE]
    found.append(b"a", b"b")
    found.append(b"c", b"d")
    held = world.cluster.held = asyncio.Event()
    world.fetcher.assign(ONE, 2)
    await until(lambda: bool(world.cluster.asked))
    world.fetcher.assign(ONE, 0)
    world.cluster.held = None
    held.set()
    assert await world.taken(ONE, 4) == [0, 1, 2, 3]


async def test_an_answer_for_what_is_read_no_more_is_dropped(world: World) -> None:
    world.cluster.partitions[ONE].append(b"a")
    held = world.cluster.held = asyncio.Event()
    world.fetcher.assign(ONE, 0)
    await until(lambda: bool(world.cluster.asked))
    world.fetcher.drop([ONE])
    world.cluster.held = None
    held.set()
    await asyncio.sleep(0.02)
    assert world.fetcher.ready() == []
    assert not world.failures


async def test_a_loss_that_is_told_late_is_none(world: World) -> None:
    """The position moved to where there are records."""
    found = world.cluster.partitions[ONE]
    found.begin = found.end = 5
    found.append(b"a")
    held = world.cluster.held = asyncio.Event()
    world.fetcher.assign(ONE, 3)
    await until(lambda: bool(world.cluster.asked))
    world.fetcher.assign(ONE, 5)
    world.cluster.held = None
    held.set()
    assert await world.taken(ONE, 1) == [5]
    assert not world.failures


# -- trouble


@pytest.mark.parametrize("error", [NOT_LEADER, UNKNOWN_SERVER_ERROR, STORAGE])
async def test_after_an_error_leaders_are_asked_for_and_it_is_tried_again(
    world: World, error: int
) -> None:
    found = world.cluster.partitions[ONE]
    found.append(b"a", b"b")
    found.error = error
    world.fetcher.assign(ONE, 0)
    await until(lambda: world.cluster.refreshes > 1)
    found.error, found.leader = 0, 2
    assert await world.taken(ONE, 2) == [0, 1]
    assert world.cluster.asked[-1].node == 2
    assert not world.failures


async def test_an_error_of_one_partition_costs_others_nothing(world: World) -> None:
    world.cluster.partitions[ONE].error = STORAGE
    world.cluster.partitions[TWO].append(b"a", b"b")
    world.fetcher.assign(ONE, 0)
    world.fetcher.assign(TWO, 0)
    assert await world.taken(TWO, 2) == [0, 1]


@pytest.mark.parametrize(
    "failure", [KafkaConnectionError("gone"), TimeoutError(), OSError("reset"), NodeNotReadyError()]
)
async def test_a_broker_that_does_not_answer_is_asked_again(
    world: World, failure: Exception
) -> None:
    world.cluster.partitions[ONE].append(b"a")
    world.cluster.failures = [failure] * 3
    world.cluster.refresh_failures = [failure] * 2
    world.fetcher.assign(ONE, 0)
    assert await world.taken(ONE, 1) == [0]
    assert not world.failures


async def test_an_error_of_the_whole_answer_is_one_of_all_partitions(world: World) -> None:
    world.cluster.partitions[ONE].append(b"a")
    world.cluster.error = UNKNOWN_SERVER_ERROR
    world.fetcher.assign(ONE, 0)
    await until(lambda: world.cluster.refreshes > 1)
    assert world.fetcher.ready() == []
    world.cluster.error = 0
    assert await world.taken(ONE, 1) == [0]


async def test_a_partition_without_a_leader_is_read_once_there_is_one(world: World) -> None:
    found = world.cluster.partitions[ONE]
    found.append(b"a")
    found.leader = NO_LEADER
    world.cluster.know(ONE)
    world.fetcher.assign(ONE, 0)
    world.cluster.partitions[TWO].append(b"b")
    world.fetcher.assign(TWO, 0)
    # Others are read meanwhile.
    assert await world.taken(TWO, 1) == [0]
    await until(lambda: world.cluster.refreshes > 1)
    found.leader = 2
    assert await world.taken(ONE, 1) == [0]


async def test_a_topic_that_stays_away_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new broker may not know it for a moment; but nobody waits for ever in silence."""
    monkeypatch.setattr(fetching, "GONE_SECONDS", 0.02)
    world.cluster.partitions[ONE].error = protocol.UNKNOWN_TOPIC_ID
    world.cluster.refresh_failures = [UnknownTopicOrPartitionError("one")] * 10_000
    world.fetcher.assign(ONE, 0)
    assert await world.failure() == "one: the topic is gone"


async def test_who_may_not_read_is_told_what_is_missing(world: World) -> None:
    world.cluster.partitions[ONE].error = NOT_AUTHORIZED
    world.fetcher.assign(ONE, 0)
    await until(lambda: bool(world.failures))
    assert isinstance(world.failures[0], KafkaAccessError)
    assert TopicAuthorizationFailedError.errno == NOT_AUTHORIZED


async def test_what_nobody_has_thought_of_ends_the_worker_and_not_only_the_reading(
    world: World,
) -> None:
    world.cluster.failures = [LookupError("a bug")]
    world.fetcher.assign(ONE, 0)
    await until(lambda: bool(world.failures))
    assert isinstance(world.failures[0], LookupError)


# -- bounds


async def test_what_is_full_is_left_out_until_something_is_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MAX_BUFFERED_BYTES", 2_000)
    monkeypatch.setattr(fetching, "MIN_PARTITION_BYTES", 10)
    full = world.cluster.partitions[ONE]
    full.append(b"x" * 1_500)
    full.append(b"y")
    world.fetcher.assign(ONE, 0)
    world.fetcher.assign(TWO, 0)
    await until(
        lambda: world.cluster.asked[-1:] != [] and ONE not in world.cluster.asked[-1].wanted
    )
    asked = world.cluster.asked[-1]
    assert set(asked.wanted) == {TWO}
    # It is soon asked again: the broker may have records of what is left out.
    assert asked.max_wait_ms < fetching.MAX_WAIT_MS
    full.append(b"z")
    world.fetcher.take(ONE, MANY, MANY)
    await until(lambda: ONE in world.cluster.asked[-1].wanted)
    assert world.cluster.asked[-1].wanted[ONE] in {(2, 0), (3, 0)}


async def test_where_all_is_full_nothing_is_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MAX_BUFFERED_BYTES", 100)
    monkeypatch.setattr(fetching, "MIN_PARTITION_BYTES", 10)
    world.cluster.partitions[ONE].append(b"x" * 500)
    world.fetcher.assign(ONE, 0)
    await until(lambda: ONE in world.fetcher.ready())
    asked = len(world.cluster.asked)
    await asyncio.sleep(0.03)
    assert len(world.cluster.asked) == asked
    world.cluster.partitions[ONE].append(b"y")
    assert offsets(world.fetcher.take(ONE, MANY, MANY)) == [0]
    assert await world.taken(ONE, 1) == [1]


# -- how complete it is


async def test_it_is_complete_once_all_that_is_decided_is_taken(world: World) -> None:
    found = world.cluster.partitions[ONE]
    found.append(b"a", b"b")
    assert world.fetcher.complete_at(ONE) is None
    world.fetcher.assign(ONE, 0)
    assert world.fetcher.complete_at(ONE) is None
    await until(lambda: ONE in world.fetcher.ready())
    assert world.fetcher.complete_at(ONE) is None
    world.fetcher.take(ONE, 1, MANY)
    assert world.fetcher.complete_at(ONE) is None
    world.fetcher.take(ONE, 1, MANY)
    first = world.fetcher.complete_at(ONE)
    assert first is not None
    assert first > -math.inf
    # It goes on counting while nothing comes.
    await until(lambda: (world.fetcher.complete_at(ONE) or 0.0) > first)


async def test_what_waits_behind_an_open_transaction_counts_and_is_told(world: World) -> None:
    found = world.cluster.partitions[ONE]
    found.append(b"a")
    found.end, found.stable_end = 3, 1
    world.fetcher.assign(ONE, 0)
    await until(lambda: ONE in world.fetcher.ready())
    assert world.fetcher.held_up() == []  # there is something to be taken first
    world.fetcher.take(ONE, MANY, MANY)
    assert world.fetcher.held_up() == [ONE]
    assert world.fetcher.ends() == {ONE: 3}
    found.stable_end = 3
    await until(lambda: world.fetcher.held_up() == [])


# -- scanning


async def scanned(cluster: FakeCluster, tp: TP, start: int, end: int) -> list[int]:
    """Return the offsets that a scan gives."""
    found: list[int] = []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        async for taken in scan(cast(Any, cluster), tp, start, end, 2, MANY):
            found += offsets(taken)
    return found


@pytest.fixture
def cluster() -> FakeCluster:
    """Return brokers that have some records."""
    made = FakeCluster()
    made.partitions[ONE].append(b"a", b"b", b"c")
    made.partitions[ONE].append(b"d")
    made.know(ONE)
    return made


@pytest.mark.parametrize(("start", "end"), [(0, 4), (1, 4), (3, 4)])
async def test_a_scan_gives_all_records_up_to_an_end(
    cluster: FakeCluster, start: int, end: int
) -> None:
    assert await scanned(cluster, ONE, start, end) == list(range(start, end))


async def test_a_scan_of_nothing_asks_nothing(cluster: FakeCluster) -> None:
    assert await scanned(cluster, ONE, 4, 4) == []
    assert cluster.asked == []


async def test_a_scan_passes_control_records_at_the_end(cluster: FakeCluster) -> None:
    found = cluster.partitions[ONE]
    found.batches.append(marker(4, 7))
    found.end = 5
    assert await scanned(cluster, ONE, 0, 5) == [0, 1, 2, 3]
    assert await scanned(cluster, ONE, 4, 5) == []


async def test_a_scan_of_records_that_are_gone_says_so(cluster: FakeCluster) -> None:
    cluster.partitions[ONE].begin = 2
    with pytest.raises(LostRecordsError, match="records from 0 to 1 were deleted"):
        await scanned(cluster, ONE, 0, 4)


async def test_a_scan_that_fails_says_so(cluster: FakeCluster) -> None:
    cluster.partitions[ONE].error = NOT_LEADER
    with pytest.raises(NotLeaderForPartitionError):
        await scanned(cluster, ONE, 0, 4)
    cluster.partitions[ONE].error, cluster.error = 0, UNKNOWN_SERVER_ERROR
    with pytest.raises(KafkaError):
        await scanned(cluster, ONE, 0, 4)
