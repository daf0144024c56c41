"""The producer and a broker that does what a test wants: what it sends, gives up, and tells."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, RequestTimedOutError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest_v0, InitProducerIdRequest
from faust.types import TP

from app.config.settings import Settings
from app.domain.errors import (
    BrokerUnavailableError,
    OutcomeOpenError,
    OutcomeUnknownError,
    OverloadedError,
)
from app.ingest import producer as producing
from app.ingest import write_fence
from app.ingest.accumulator import Offsets
from app.ingest.producer import Producer
from app.kafka import protocol
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.topics import TopicSpec
from app.kafka.transactions import COMPRESSIONS
from app.system import clocks, retries

TIMEOUT = 0.4
NOT_LEADER, DUPLICATE, NOT_IN_STEP = 6, 46, 45
INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING = 47, 49


@dataclass
class Broker:
    """One broker: an identity, and how it answers a batch; None leaves it without an answer."""

    id: int = 5
    epoch: int = 0
    answer: Callable[[int, bytes], Any] = lambda number, data: (0, 7)
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    #: Partitions of each transaction without records, and those of the one that is open.
    fences: list[list[int]] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    #: The epochs of markers in partitions, and the partitions that get none.
    markers: dict[int, int] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    #: Whether connections are taken.
    is_there: bool = True


class Client:
    """Stands in for aiokafka's client."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.cluster = SimpleNamespace(leader_for_partition=lambda _: 1)

    async def bootstrap(self) -> None:
        if not self._broker.is_there:
            raise KafkaConnectionError

    async def add_topic(self, _: str) -> bool:
        return True

    async def ready(self, _: int) -> bool:
        return self._broker.is_there

    async def close(self) -> None:
        pass

    def force_metadata_update(self) -> None:
        pass

    async def send(self, _node: int, request: Any, **_: object) -> Any:
        if not self._broker.is_there:
            raise KafkaConnectionError
        assert isinstance(request, ProduceRequest)
        return await self._produce(request)

    async def _produce(self, request: ProduceRequest) -> Any:
        assert request._required_acks == -1  # of all in-sync replicas
        ((topic, batches),) = request._topics
        answers = []
        for number, data in batches:
            self._broker.sent.append((number, data))
            answer = self._broker.answer(number, data)
            if answer is None:
                await asyncio.sleep(producing.LEAST_TIMEOUT_SECONDS)
                raise RequestTimedOutError
            if isinstance(answer, Exception):
                raise answer
            answers.append((number, *answer))
        return SimpleNamespace(topics=[(topic, answers)])


class Cluster:
    """Stands in for the connections of the fence: the broker coordinates, and leads all."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def start(self) -> None:
        if not self._broker.is_there:
            raise KafkaConnectionError

    async def refresh(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def leader(self, _: TP) -> int:
        return 1

    async def places(self, *_: str) -> dict[TP, int]:
        return {}

    async def coordinate(self, _kind: int, key: str, request: Any) -> Any:
        broker = self._broker
        if isinstance(request, InitProducerIdRequest):
            broker.markers |= dict.fromkeys(set(broker.open) - broker.skipped, broker.epoch + 1)
            broker.open = []
            broker.epoch += 2
            return SimpleNamespace(error_code=0, producer_id=broker.id, producer_epoch=broker.epoch)
        if request.struct is protocol.DescribeTransactions:
            found: Any = (0, key, "Empty", 0, 0, broker.id, broker.epoch, [], {})
            return SimpleNamespace(transactions=[found])
        asked = vars(AddPartitionsToTxnRequest_v0.decode(BytesIO(*request.arguments)))
        ((_, numbers),) = asked["topics"]
        broker.fences.append(list(numbers))
        if asked["producer_id"] != broker.id:
            return SimpleNamespace(error_code=INVALID_PRODUCER_ID_MAPPING)
        if asked["producer_epoch"] != broker.epoch:
            return SimpleNamespace(error_code=INVALID_PRODUCER_EPOCH)
        broker.open = list(numbers)
        return SimpleNamespace(error_code=0)

    async def send(self, _node: int, call: Any) -> Any:
        assert call.struct is protocol.DescribeProducers
        ((topic, numbers, _),) = call.arguments[0]
        partitions: list[Any] = [
            (number, 0, None, self._producers(number), {}) for number in numbers
        ]
        return SimpleNamespace(topics=[(topic, partitions, {})])

    def _producers(self, number: int) -> list[Any]:
        epoch = self._broker.markers.get(number)
        return [] if epoch is None else [(self._broker.id, epoch, 0, 0, 0, -1, {})]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(producing, "AIOKafkaClient", lambda **_: Client(made))
    monkeypatch.setattr(write_fence, "Cluster", lambda *_: Cluster(made))
    quick = replace(retries.FENCE, first_seconds=0.01, longest_seconds=0.02)
    monkeypatch.setattr(retries, "FENCE", quick)
    monkeypatch.setattr(producing, "WATCH_SECONDS", 0.01)
    return made


@asynccontextmanager
async def producer(**given: Any) -> AsyncIterator[Producer]:
    short = {"ack_timeout_seconds": TIMEOUT, "write_retry_ms": 10, "write_retry_max_ms": 20}
    settings = Settings.model_validate(short | given)
    made = Producer(settings, TopicSpec("topic", 2, 1), "a-writes-b")
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def record(name: str = "a") -> ToWrite:
    return None, name.encode(), b"{}", NO_HEADERS


def send(given: Producer, number: int = 0, name: str = "a") -> Offsets:
    return given.send({number: [record(name)]})[number]


async def told(offsets: Offsets) -> tuple[type[BaseException] | None, float]:
    """Return the error that a write ends with, and after how many seconds."""
    began = asyncio.get_running_loop().time()
    await asyncio.wait([offsets])
    error = offsets.exception()
    return None if error is None else type(error), asyncio.get_running_loop().time() - began


def epoch_and_sequence(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[51:53]), int.from_bytes(data[53:57])


async def test_batches_of_a_partition_follow_each_other(broker: Broker) -> None:
    async with producer() as given:
        assert list(await send(given)) == [7]
        assert list(await send(given)) == [7]
    assert [epoch_and_sequence(data)[1] for _, data in broker.sent] == [0, 1]


async def test_what_is_held_is_taken_again_but_never_once_the_worker_stops(broker: Broker) -> None:
    async with producer() as made:
        made.hold(are_held=True)
        with pytest.raises(OverloadedError, match="repartitioned"):
            send(made)
        made.hold(are_held=False)
        assert await send(made) == [7]
        made.refuse()
        made.hold(are_held=False)
        with pytest.raises(OverloadedError, match="stopping"):
            send(made)


async def test_a_start_fences_what_a_worker_before_may_have_left(broker: Broker) -> None:
    async with producer() as given:
        assert broker.fences == [[0, 1]]
        await send(given)
    assert epoch_and_sequence(broker.sent[0][1])[0] == broker.epoch


@pytest.mark.parametrize("failure", [KafkaConnectionError(), (NOT_LEADER, -1)])
async def test_a_batch_is_sent_again_as_the_same_bytes(broker: Broker, failure: Any) -> None:
    answers = [failure, failure, (0, 9), (0, 10)]
    broker.answer = lambda number, data: answers.pop(0)
    async with producer() as given:
        assert list(await send(given)) == [9]
        assert len({data for _, data in broker.sent}) == 1
        assert list(await send(given)) == [10]
    assert [epoch_and_sequence(data)[1] for _, data in broker.sent] == [0, 0, 0, 1]
    assert broker.fences == [[0, 1]]


@pytest.mark.parametrize("lacks", ["a leader", "a connection"])
async def test_pauses_double_while_nothing_can_be_sent_however_much_comes(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    loop, times = asyncio.get_running_loop(), list[float]()
    is_there = False

    def leader(_: object) -> int | None:
        if lacks == "a leader":
            times.append(loop.time())
        return 1 if is_there or lacks != "a leader" else None

    async def ready(_client: Client, _node: int) -> bool:
        times.append(loop.time())
        return is_there or lacks != "a connection"

    async with producer(write_retry_ms=10, write_retry_max_ms=10_000, ack_timeout_seconds=60) as it:
        assert it._client is not None
        monkeypatch.setattr(it._client.cluster, "leader_for_partition", leader)
        monkeypatch.setattr(Client, "ready", ready)
        writes = [send(it)]
        while len(times) < 6:
            await asyncio.sleep(0.001)
            writes.append(send(it))
        gaps = [b - a for a, b in pairwise(times)]
        # Each is up to a quarter shorter.
        least = [0.0075 * 2**failures for failures in range(5)]
        assert all(gap > wanted * 0.99 for gap, wanted in zip(gaps, least, strict=True)), gaps
        is_there = True
        await asyncio.gather(*writes)


async def test_batches_are_made_as_the_settings_say(broker: Broker) -> None:
    value = b'{"name":"' + b"x" * 300 + b'"}'
    records: list[ToWrite] = [(None, b"%d" % n, value, NO_HEADERS) for n in range(20)]
    for settings, sizes in (
        ({}, [1]),
        ({"write_batch_kib": 2}, [4]),
        ({"write_compression": "zstd"}, [1]),
        ({"write_compression": "lz4"}, [1]),
    ):
        broker.sent.clear()
        async with producer(**settings) as given:
            await given.send({0: records})[0]
        assert [len(broker.sent)] == sizes, settings
        codec = {int.from_bytes(data[21:23]) & 7 for _, data in broker.sent}
        assert codec == {COMPRESSIONS[str(settings.get("write_compression", "none"))]}
        if "write_compression" in settings:
            assert len(broker.sent[0][1]) < 2_000


@pytest.mark.parametrize("before", [{}, {0: 1}], ids=["no marker", "an older marker"])
async def test_a_partition_that_the_coordinator_has_passed_over_is_fenced_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, before: dict[int, int]
) -> None:
    broker.markers = before
    monkeypatch.setattr(producing, "START_SECONDS", 0.2)
    broker.skipped = {0}
    async with producer() as made:
        assert len(broker.fences) > 1
        assert (await told(send(made)))[0] is BrokerUnavailableError
        broker.skipped = set()
        while (await told(send(made)))[0] is not None:
            await asyncio.sleep(0.01)
        assert broker.markers.keys() == {0, 1}
        assert broker.markers[0] > 1


async def test_who_is_told_that_nobody_knows_is_told_behind_the_fence(broker: Broker) -> None:
    async with producer() as given:
        await send(given)
        broker.answer = lambda number, data: None
        fences: list[list[list[int]]] = []
        offsets = send(given)
        offsets.add_done_callback(lambda _: fences.append(list(broker.fences)))
        error, seconds = await told(offsets)
        assert error is OutcomeUnknownError
        assert TIMEOUT <= seconds < 2 * TIMEOUT
        assert fences == [[[0, 1], [0]]]
        broker.answer = lambda number, data: (0, 8)
        assert list(await send(given)) == [8]
        assert epoch_and_sequence(broker.sent[-1][1]) == (broker.epoch, 0)


async def test_without_a_fence_it_is_told_that_the_outcome_is_open(broker: Broker) -> None:
    async with producer() as given:
        broker.answer = lambda number, data: None
        offsets = send(given)
        await asyncio.sleep(TIMEOUT / 2)
        broker.is_there = False
        assert (await told(offsets))[0] is OutcomeOpenError
        # Whatever comes now certainly is not written.
        assert (await told(send(given)))[0] is BrokerUnavailableError
        sent = len(broker.sent)
        broker.is_there, broker.answer = True, lambda number, data: (0, 8)
        async with asyncio.timeout(30):
            while (await told(send(given)))[0]:
                await asyncio.sleep(0.01)
        assert broker.fences[-1] == [0]
        assert epoch_and_sequence(broker.sent[sent][1])[0] == broker.epoch


async def test_where_the_broker_has_forgotten_the_identity_the_outcome_is_open(
    broker: Broker,
) -> None:
    async with producer() as given:
        await send(given)
        broker.id += 1
        broker.answer = lambda number, data: None
        assert (await told(send(given)))[0] is OutcomeOpenError
        broker.answer = lambda number, data: (0, 8)
        await send(given)


async def test_another_identity_of_the_same_id_is_fenced_as_well(broker: Broker) -> None:
    async with producer() as given:
        await send(given)
        broker.epoch += 1
        broker.answer = lambda number, data: None
        assert (await told(send(given)))[0] is OutcomeUnknownError
    # Once in vain.
    assert broker.fences == [[0, 1], [0], [0]]


async def test_what_never_reached_a_broker_is_told_to_be_unwritten(broker: Broker) -> None:
    async with producer() as given:
        broker.answer = lambda number, data: (NOT_LEADER, -1)
        client = given._client
        error, seconds = await told(send(given))
        assert error is BrokerUnavailableError
        assert seconds < 2 * TIMEOUT
        # A broker that answers keeps its connection.
        assert given._client is client
    assert [0] not in broker.fences


async def test_a_batch_that_the_broker_has_without_a_position_is_of_unknown_outcome(
    broker: Broker,
) -> None:
    async with producer() as given:
        broker.answer = lambda number, data: (DUPLICATE, -1)
        assert (await told(send(given)))[0] is OutcomeUnknownError
        broker.answer = lambda number, data: (0, 8)
        await send(given)
    assert [epoch_and_sequence(data)[1] for _, data in broker.sent] == [0, 1]


async def test_out_of_step_with_the_broker_it_begins_anew(broker: Broker) -> None:
    async with producer() as given:
        await send(given)
        broker.answer = lambda number, data: (NOT_IN_STEP, -1)
        assert (await told(send(given)))[0] is OutcomeUnknownError
        broker.answer = lambda number, data: (0, 8)
        await send(given)
    assert broker.fences == [[0, 1], [0]]
    assert epoch_and_sequence(broker.sent[-1][1]) == (broker.epoch, 0)


async def test_other_partitions_go_on_during_a_fence(broker: Broker) -> None:
    async with producer() as given:
        broker.answer = lambda number, data: None if number == 0 else (0, 8)
        lost = send(given, 0)
        await asyncio.sleep(TIMEOUT / 2)
        assert (await told(lost))[0] is OutcomeUnknownError
        assert list(await send(given, 1)) == [8]


@pytest.mark.parametrize("is_sent", [False, True])
async def test_nothing_is_sent_after_a_standstill_that_waited_through_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, is_sent: bool
) -> None:
    """Whichever task runs first after it."""
    monkeypatch.setattr(producing, "WATCH_SECONDS", 3600.0)
    async with producer() as given:
        if is_sent:
            broker.answer = lambda number, data: (NOT_LEADER, -1)
        offsets = send(given)
        if is_sent:
            while not broker.sent:
                await asyncio.sleep(0)
        sent = len(broker.sent)
        monkeypatch.setattr(producing, "now", lambda: clocks.now() + 3600)
        broker.answer = lambda number, data: (0, 8)
        assert (await told(offsets))[0] is BrokerUnavailableError
        assert len(broker.sent) == sent


async def test_nothing_is_sent_that_waited_too_long_for_a_connection(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client may have sent it again by now."""
    monkeypatch.setattr(producing, "WATCH_SECONDS", 3600.0)

    async def ready_late(*_: object) -> bool:
        monkeypatch.setattr(producing, "now", lambda: clocks.now() + 3600)
        return True

    async with producer() as given:
        monkeypatch.setattr(Client, "ready", ready_late)
        assert (await told(send(given)))[0] is BrokerUnavailableError
        assert broker.sent == []


async def test_a_way_that_is_too_narrow_carries_smaller_requests(broker: Broker) -> None:
    async with producer() as given:
        broker.answer = lambda number, data: None
        large = (None, b"a", b"x" * 200_000, NO_HEADERS)
        sent = given.send({number: [large] for number in (0, 1)})
        assert (await told(sent[0]))[0] is OutcomeUnknownError
        assert (await told(sent[1]))[0] is OutcomeUnknownError
        half = given._request_bytes
        # Both were in one request.
        assert 200_000 < half < 201_000
        broker.answer = lambda number, data: (0, 8)
        await send(given)
        assert given._request_bytes == half + producing.REQUEST_STEP_BYTES


async def test_a_stop_waits_for_what_is_under_way(broker: Broker) -> None:
    async with producer() as given:
        offsets = send(given)
    assert list(offsets.result()) == [7]
