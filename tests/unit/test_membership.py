"""Membership: what a worker is in its group, for how long it believes so, and what agents get."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from app.domain.errors import ReplacedError
from app.engine import consumer as engine
from app.engine.batches import Batch, Slice, SliceSize
from app.engine.consumer import Consumer, ConsumerThread
from app.engine.lease import Lease
from app.engine.partitions import Changes, Partitions
from app.kafka import protocol
from app.kafka.transactions import Member
from app.system.clocks import Moment
from tests.support.strategies import Record

MEMBER = Member("app", 7, "member-1", "worker-1")
ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCE = 22, 25, 27


class Thread(ConsumerThread):
    """The thread of a consumer that is in its group; the broker answers as told."""

    def __init__(self) -> None:
        self.thread_loop = cast(Any, SimpleNamespace(is_closed=lambda: False))
        self.member = MEMBER
        self.answer = 0

    async def call_thread(self, *_: Any, **__: Any) -> Any:
        """Return what the broker says."""
        await asyncio.sleep(0)
        return self.answer

    def _ensure_consumer(self) -> Any:
        """Return aiokafka's consumer, which is of the next generation already."""
        newer = SimpleNamespace(
            group_id="app", generation=8, member_id="member-1", _group_instance_id="worker-1"
        )
        return SimpleNamespace(_coordinator=newer)


class Worker(Consumer):
    """A consumer without Faust around it."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Batch] = asyncio.Queue()
        tables = SimpleNamespace(batches=self.batches, partitions=Partitions())
        self.app = cast(Any, SimpleNamespace(tables=tables, consumer_generation_id=7))
        self.thread = Thread()
        self._thread = self.thread
        self.flow_active = True
        self._read_offset = {}


@pytest.fixture
def worker() -> Worker:
    """Return a consumer that is in its group."""
    return Worker()


# -- as what a worker is in its group


def test_a_worker_is_what_it_was_assigned_as(worker: Worker) -> None:
    """By the time of a commit aiokafka may have joined the next generation."""
    assert worker.member() == MEMBER


@pytest.mark.parametrize(
    ("answer", "is_known"),
    [(0, True), (REBALANCE, True), (ILLEGAL_GENERATION, False), (UNKNOWN_MEMBER, False)],
)
async def test_only_whom_the_broker_knows_is_a_member(
    worker: Worker, answer: int, is_known: bool
) -> None:
    worker.thread.answer = answer
    assert await worker.is_member() is is_known
    assert worker.partitions.lease.holds is is_known


async def test_whose_name_another_has_taken_is_told_so(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "REPLACED_SECONDS", 0.0)
    worker.thread.answer = protocol.FENCED_INSTANCE_ID
    with pytest.raises(ReplacedError):
        await worker.is_member()


async def test_the_brokers_word_counts_from_when_it_was_asked(worker: Worker) -> None:
    """While an answer is under way, the broker may give the partitions away."""
    moments = iter([Moment(100.0, 100.0), Moment(109.0, 109.0)])
    worker.partitions.lease = Lease(clock=lambda: next(moments))
    assert await worker.is_member()
    assert worker.partitions.lease.confirmed_at == 100.0


# -- what agents get


def batch_of(topic: str) -> Batch:
    """Return a batch of one record."""
    record = cast(Any, Record(b"value", 5))
    return Batch(topic, [Slice(3, [record], Changes())], SliceSize())


async def test_a_batch_goes_to_the_agents_unless_it_was_given_up(worker: Worker) -> None:
    given_up, wanted = batch_of("source"), batch_of("source")
    given_up.decided.cancel()
    for each in (given_up, wanted):
        worker.batches.put_nowait(each)
    assert [each async for each in worker.getmany(0.01)] == []
    ((tp, message),) = [each async for each in worker.getmany(0.01)]
    assert tp == TP("source", 3)
    assert message.value is cast(Any, wanted)


async def test_nobody_commits_offsets_outside_of_a_cycle(worker: Worker) -> None:
    """They would be of no transaction, and might be of another generation."""
    assert await worker.commit() is False
    assert await worker.seek_to_committed() == {}
