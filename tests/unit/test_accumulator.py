"""What waits for the broker: by partition, in order, within limits."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import (
    BrokerUnavailableError,
    OutcomeOpenError,
    OutcomeUnknownError,
    OverloadedError,
    RecordTooLargeError,
)
from app.ingest.accumulator import RECORD_OVERHEAD_BYTES, BufferBudget, Group, PartitionBatcher
from app.kafka.fast_records import ToWrite


def records(*names: str) -> list[ToWrite]:
    return [(None, name.encode(), b"{}", []) for name in names]


def group(count: int = 1, since: float = 0.0) -> Group:
    return Group(records(*map(str, range(count))), since, asyncio.Future())


class Waiting:
    """A lane, and the room that it uses."""

    def __init__(self, max_records: int = 100, max_bytes: int = 1_000_000) -> None:
        self.budget = BufferBudget(max_records, max_bytes)
        self.batcher = PartitionBatcher(0, self.budget)

    def add(self, *groups: Group) -> None:
        self.budget.take(groups)
        for some in groups:
            self.batcher.add(some)


def error_of(some: Group) -> type[BaseException]:
    error = some.offsets.exception()
    assert error is not None
    return type(error)


async def test_offsets_follow_the_first_of_a_batch() -> None:
    waiting, first, second = Waiting(), group(2), group(3)
    waiting.add(first, second)
    waiting.batcher.hand_over(5, 0)
    waiting.batcher.acknowledge(70, 0.0)
    assert list(first.offsets.result()) == [70, 71]
    assert list(second.offsets.result()) == [72, 73, 74]
    assert not waiting.budget.is_used


async def test_a_group_may_need_several_batches() -> None:
    waiting, some, behind = Waiting(), group(5), group(1)
    waiting.add(some, behind)
    for offset, count in ((10, 2), (20, 2), (30, 2)):
        assert not some.offsets.done()
        assert [key for _, key, _, _ in waiting.batcher.records()][:1] == [
            str(some.sent).encode() if some.sent < 5 else b"0"
        ]
        waiting.batcher.hand_over(count, 0)
        assert waiting.batcher.is_under_way
        assert not waiting.batcher.waits
        waiting.batcher.acknowledge(offset, 0.0)
    assert list(some.offsets.result()) == [10, 11, 20, 21, 30]
    assert list(behind.offsets.result()) == [31]
    assert not waiting.budget.is_used


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 9))
def test_every_record_gets_its_own_offset(sizes: list[int], batch: int) -> None:
    async def run() -> None:
        waiting, groups = Waiting(), [group(size) for size in sizes]
        waiting.add(*groups)
        offset = 0
        while waiting.batcher.waits:
            count = min(batch, len(list(waiting.batcher.records())))
            waiting.batcher.hand_over(count, 0)
            waiting.batcher.acknowledge(offset, 0.0)
            offset += count
        told = [number for some in groups for number in some.offsets.result()]
        assert told == list(range(sum(sizes)))
        assert not waiting.budget.is_used

    asyncio.run(run())


@pytest.mark.parametrize(
    ("budget", "fits"),
    [
        ((3, 10_000), True),
        ((2, 10_000), False),
        ((3, 3 * (RECORD_OVERHEAD_BYTES + 3)), True),
        ((3, 3 * (RECORD_OVERHEAD_BYTES + 3) - 1), False),
    ],
)
async def test_no_more_waits_than_there_is_room_for(budget: tuple[int, int], fits: bool) -> None:
    given = BufferBudget(*budget)
    groups = [group(1), group(2)]
    if fits:
        given.take(groups)
        assert given.is_used
    else:
        with pytest.raises(OverloadedError):
            given.take(groups)
        assert not given.is_used


UNKNOWN = OutcomeUnknownError("no acknowledgement")


async def test_what_waits_for_too_long_is_told_so_unless_it_is_under_way() -> None:
    waiting = Waiting()
    sent, late, fresh = group(1, since=1), group(1, since=2), group(1, since=3)
    waiting.add(sent, late, fresh)
    waiting.batcher.hand_over(1, 1)
    waiting.batcher.drop_late(3)
    assert error_of(late) is BrokerUnavailableError
    assert not sent.offsets.done()
    assert not fresh.offsets.done()


async def test_what_is_under_way_keeps_its_room_until_it_ends() -> None:
    waiting = Waiting(max_records=1)
    waiting.add(group(1))
    waiting.batcher.hand_over(1, 0)
    waiting.batcher.drop_late(1)
    with pytest.raises(OverloadedError):
        waiting.add(group(1))
    waiting.batcher.acknowledge(5, 0.0)
    waiting.add(group(1))


async def test_a_batch_is_late_when_its_oldest_write_is_and_it_had_half_of_the_time() -> None:
    waiting = Waiting()
    assert not waiting.batcher.is_late(100, 1)
    waiting.add(group(1, since=100))
    waiting.batcher.hand_over(1, 100.9)
    assert not waiting.batcher.is_late(101.3, 1)
    assert waiting.batcher.is_late(101.5, 1)


async def test_what_is_given_up_is_told_nothing_before_the_fence() -> None:
    waiting, some = Waiting(max_records=2), group(2)
    waiting.add(some)
    waiting.batcher.hand_over(2, 0)
    waiting.batcher.close()
    assert not waiting.batcher.is_under_way
    assert not some.offsets.done()
    assert waiting.budget.is_used
    assert list(waiting.batcher.offsets()) == [some.offsets]
    waiting.batcher.open(UNKNOWN)
    assert error_of(some) is OutcomeUnknownError
    assert not waiting.budget.is_used


async def test_a_closed_lane_sends_nothing() -> None:
    waiting, behind = Waiting(), group(1)
    waiting.batcher.close()
    waiting.add(behind)
    assert not waiting.batcher.waits
    waiting.batcher.open(UNKNOWN)
    assert waiting.batcher.waits
    assert not behind.offsets.done()


async def test_who_waits_for_a_fence_for_too_long_is_told_that_it_is_open() -> None:
    waiting, first, second = Waiting(), group(1, since=1), group(1, since=2)
    waiting.add(first, second)
    waiting.batcher.hand_over(2, 2)
    waiting.batcher.close()
    waiting.batcher.tell_open(2, "no fence")
    assert error_of(first) is OutcomeOpenError
    assert not second.offsets.done()
    # It is not sent before the fence all the same.
    assert waiting.batcher.is_closed
    waiting.batcher.open(UNKNOWN)
    assert error_of(second) is OutcomeUnknownError
    assert not waiting.budget.is_used


async def test_the_rest_of_a_group_goes_with_a_batch_that_is_given_up() -> None:
    waiting, some, behind = Waiting(), group(3), group(1)
    waiting.add(some, behind)
    waiting.batcher.hand_over(2, 0)
    waiting.batcher.close()
    assert [key for _, key, _, _ in waiting.batcher.records()] == [b"0"]
    waiting.batcher.open(UNKNOWN)
    assert error_of(some) is OutcomeUnknownError
    assert not behind.offsets.done()


@pytest.mark.parametrize("acknowledged", [0, 2])
async def test_what_was_not_written_is_told_so_unless_a_part_of_it_was(acknowledged: int) -> None:
    waiting, some = Waiting(), group(3)
    waiting.add(some)
    if acknowledged:
        waiting.batcher.hand_over(acknowledged, 0)
        waiting.batcher.acknowledge(7, 0)
    waiting.batcher.hand_over(1, 0)
    waiting.batcher.fail_unwritten("no broker takes records")
    assert error_of(some) is (OutcomeUnknownError if acknowledged else BrokerUnavailableError)
    assert not waiting.budget.is_used


async def test_a_group_that_is_late_between_two_of_its_batches_is_of_unknown_outcome() -> None:
    waiting, some = Waiting(), group(3, since=1)
    waiting.add(some)
    waiting.batcher.hand_over(2, 1)
    waiting.batcher.acknowledge(7, 1)
    waiting.batcher.drop_late(2)
    assert error_of(some) is OutcomeUnknownError
    assert not waiting.budget.is_used


async def test_the_rest_of_a_group_stays_before_those_that_came_later() -> None:
    """Else an older write of an id would overtake a newer one."""
    waiting, some, behind = Waiting(), group(2, since=1), group(1, since=3)
    waiting.add(some, behind)
    waiting.batcher.hand_over(1, 3)
    waiting.batcher.drop_late(2)
    waiting.batcher.acknowledge(7, 3)
    waiting.batcher.hand_over(2, 3)
    waiting.batcher.acknowledge(8, 3)
    assert [list(each.offsets.result()) for each in (some, behind)] == [[7, 8], [9]]


async def test_a_group_that_is_sent_in_part_is_of_unknown_outcome() -> None:
    waiting, some, behind = Waiting(), group(3), group(1)
    waiting.add(some, behind)
    waiting.batcher.hand_over(2, 0)
    waiting.batcher.give_up("the broker does not answer")
    assert error_of(behind) is BrokerUnavailableError
    assert not some.offsets.done()
    waiting.batcher.fail(OutcomeUnknownError("no acknowledgement"))
    assert error_of(some) is OutcomeUnknownError
    assert not waiting.batcher.waits
    assert not waiting.budget.is_used


async def test_a_batch_that_fails_leaves_what_waits_behind_it() -> None:
    waiting, bad, behind = Waiting(), group(1), group(1)
    waiting.add(bad, behind)
    waiting.batcher.hand_over(1, 0)
    waiting.batcher.fail(RecordTooLargeError("too large"))
    assert error_of(bad) is RecordTooLargeError
    waiting.batcher.hand_over(1, 0)
    waiting.batcher.acknowledge(3, 0.0)
    assert list(behind.offsets.result()) == [3]


async def test_a_batch_is_stalled_when_it_is_under_way_for_long() -> None:
    waiting = Waiting()
    assert not waiting.batcher.is_stalled(100, 1)
    waiting.add(group(1))
    waiting.batcher.hand_over(1, 100)
    assert not waiting.batcher.is_stalled(101, 1)
    assert waiting.batcher.is_stalled(101.1, 1)
    waiting.batcher.acknowledge(0, 0.0)
    assert not waiting.batcher.is_stalled(200, 1)


async def test_nobody_has_to_hear_of_a_failure() -> None:
    waiting = Waiting()
    waiting.add(group(1))
    waiting.batcher.give_up("nobody listens")  # pytest fails for an exception never retrieved
