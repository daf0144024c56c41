"""Batches: decided in short slices, in order; what fails fails the cycle, not the agent."""

import asyncio
import time
from typing import Any, cast

import pytest
from faust.types import TP

from app.engine.batches import (
    FIRST_SLICE_RECORDS,
    MAX_SLICE_RECORDS,
    MIN_SLICE_RECORDS,
    SLICE_SECONDS,
    Abandoned,
    Batch,
    BatchSchema,
    Slice,
    SliceSize,
)
from app.engine.partitions import Changes
from tests.support.strategies import Record


class Fixed(SliceSize):
    """A size that learns nothing."""

    def learn(self, records: int, seconds: float) -> None:
        """Stay as it is."""


def part(number: int, records: int) -> Slice:
    """Return records of a partition."""
    made = [Record(b"value", offset) for offset in range(records)]
    return Slice(number, cast(Any, made), Changes())


# -- how large a slice is


def test_the_first_slice_is_small() -> None:
    assert SliceSize().records == FIRST_SLICE_RECORDS


def test_a_slice_takes_what_fits_into_its_time() -> None:
    size = SliceSize()
    size.learn(100, SLICE_SECONDS / 2)
    assert size.records == 200
    size.learn(200, SLICE_SECONDS * 4)
    assert size.records == 50


@pytest.mark.parametrize(
    ("seconds", "records"),
    [(0.0, MAX_SLICE_RECORDS), (1e-9, MAX_SLICE_RECORDS), (10.0, MIN_SLICE_RECORDS)],
)
def test_a_slice_has_bounds(seconds: float, records: int) -> None:
    size = SliceSize()
    size.learn(100, seconds)
    assert size.records == records


def test_few_records_teach_nothing() -> None:
    """What one record takes is mostly what a slice takes by itself."""
    size = SliceSize()
    size.learn(MIN_SLICE_RECORDS - 1, 10.0)
    assert size.records == FIRST_SLICE_RECORDS


# -- slices


async def test_records_come_in_their_order_and_each_partition_by_itself() -> None:
    batch = Batch("source", [part(3, 40), part(1, 5)], Fixed(16))
    seen = []
    async for number, records, changes in batch.slices():
        seen.append((number, [record.offset for record in records]))
        assert changes in [each.changes for each in batch.parts]
    assert [(number, len(offsets)) for number, offsets in seen] == [
        (3, 16),
        (3, 16),
        (3, 8),
        (1, 5),
    ]
    assert [o for number, offsets in seen if number == 3 for o in offsets] == list(range(40))


async def test_between_slices_others_have_a_turn() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(count())
    batch = Batch("source", [part(0, 160)], Fixed(MIN_SLICE_RECORDS))
    seen = []
    async for _ in batch.slices():
        seen.append(turns)
    others.cancel()
    assert len(seen) == 10
    assert seen == sorted(set(seen))


async def test_slow_deciding_makes_slices_short(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def now() -> float:
        return clock

    monkeypatch.setattr(time, "perf_counter", now)
    batch = Batch("source", [part(0, 3_000)], SliceSize())
    taken = []
    async for _, records, _ in batch.slices():
        clock += len(records) * 50e-6
        taken.append(len(records))
    assert sum(taken) == 3_000
    # As many as fit at 50 microseconds a record.
    fitting = int(SLICE_SECONDS / 50e-6)
    assert set(taken[1:-1]) <= {fitting - 1, fitting}


async def test_a_slice_holds_the_loop_no_longer_than_it_may() -> None:
    """Once it is known how long a record takes."""
    batch = Batch("source", [part(0, 1_000)], SliceSize())
    longest = []
    async for _, records, _ in batch.slices():
        began = time.perf_counter()
        while time.perf_counter() - began < len(records) * 20e-6:
            pass
        longest.append(time.perf_counter() - began)
    # Other processes may have the cores meanwhile; most slices tell.
    assert sorted(longest)[len(longest) // 2] < 3 * SLICE_SECONDS


# -- the end of it


async def test_a_batch_is_decided_once_the_agent_is_through() -> None:
    batch = Batch("source", [part(0, 1)], SliceSize())
    async with batch:
        assert not batch.decided.done()
    assert batch.decided.result() is None


async def test_what_is_raised_fails_the_batch_and_not_the_agent() -> None:
    batch = Batch("source", [part(0, 1)], SliceSize())
    async with batch:
        raise LookupError("a bug")
    with pytest.raises(LookupError):
        await batch.decided


async def test_an_agent_that_is_stopped_stops_and_says_so() -> None:
    batch = Batch("source", [part(0, 1)], SliceSize())

    async def decide() -> None:
        async with batch:
            await asyncio.Event().wait()

    agent = asyncio.create_task(decide())
    await asyncio.sleep(0)
    agent.cancel()
    with pytest.raises(asyncio.CancelledError):
        await agent
    assert isinstance(batch.decided.exception(), Abandoned)


async def test_a_batch_that_nobody_waits_for_any_more_is_left_quietly() -> None:
    batch = Batch("source", [part(0, 1)], SliceSize())
    batch.decided.cancel()
    async with batch:
        pass
    # Its partition may have been closed, so that it cannot be read any more.
    other = Batch("source", [part(0, 1)], SliceSize())
    other.decided.cancel()
    async with other:
        raise LookupError("late")


async def test_faust_lets_a_batch_through_as_it_is() -> None:
    batch = Batch("source", [part(7, 1), part(2, 1)], SliceSize())
    message = type("Message", (), {"value": batch})()
    schema = BatchSchema()
    assert schema.loads_value(None, message) is batch
    schema.loads_key(None, message)
    assert batch.tp == TP("source", 7)
