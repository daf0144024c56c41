"""Room for large requests: in order, half of it for one client, none of it lost."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.domain.errors import OverloadedError
from app.web.http import room as module
from app.web.http.room import MAX_WAITING, MAX_WAITING_OF_CLIENT, MemoryBudget


class Holder:
    """A request that takes room until it is told to end."""

    def __init__(self, room: MemoryBudget, client: str, size: int) -> None:
        self.has_room = False
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._hold(room, client, size))

    async def _hold(self, room: MemoryBudget, client: str, size: int) -> None:
        async with room.take(client, size):
            self.has_room = True
            await self._end.wait()

    async def end(self) -> None:
        """Give the room back."""
        self._end.set()
        await self.task
        await turns()


async def turns() -> None:
    """Let everybody go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def hold(room: MemoryBudget, *wanted: tuple[str, int]) -> list[Holder]:
    holders = [Holder(room, client, size) for client, size in wanted]
    await turns()
    return holders


async def test_who_needs_more_than_is_left_waits_and_the_next_behind_it() -> None:
    room = MemoryBudget(100)
    first, second, third = await hold(room, ("a", 50), ("b", 40), ("c", 20))
    small = (await hold(room, ("d", 5)))[0]
    # In order: else small ones would keep a large one waiting for ever.
    assert [each.has_room for each in (first, second, third, small)] == [True, True, False, False]
    await first.end()
    assert third.has_room
    assert small.has_room
    for each in (second, third, small):
        await each.end()


async def test_a_client_has_half_of_it_and_holds_up_nobody() -> None:
    room = MemoryBudget(100)
    mine, waits, other = await hold(room, ("a", 50), ("a", 1), ("b", 50))
    assert (mine.has_room, waits.has_room, other.has_room) == (True, False, True)
    await mine.end()
    assert waits.has_room
    await waits.end()
    await other.end()


async def test_what_is_larger_than_it_all_is_served_alone() -> None:
    room = MemoryBudget(100)
    (large,) = await hold(room, ("a", 10_000))
    assert large.has_room
    await large.end()
    (again,) = await hold(room, ("a", 10_000))
    assert again.has_room
    await again.end()


async def test_who_waits_for_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    room = MemoryBudget(100)
    (first,) = await hold(room, ("a", 50))
    with pytest.raises(OverloadedError):
        async with room.take("a", 50):
            pass
    await first.end()
    async with room.take("a", 50):
        pass


async def test_no_more_wait_than_may() -> None:
    room = MemoryBudget(100)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(room.take("a", 50))
        waiting = await hold(room, *[("a", 50)] * MAX_WAITING_OF_CLIENT)
        with pytest.raises(OverloadedError):
            await stack.enter_async_context(room.take("a", 50))
        async with room.take("b", 1):
            pass
        others = [(f"client-{number}", 51) for number in range(MAX_WAITING - len(waiting))]
        (full,) = await hold(room, ("c", 50))
        waiting += [full, *await hold(room, *others)]
        with pytest.raises(OverloadedError):
            await stack.enter_async_context(room.take("d", 1))
        for each in waiting:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in waiting), return_exceptions=True)
    async with room.take("a", 50):
        pass


async def test_a_client_that_goes_away_while_it_gets_room_gives_it_back() -> None:
    room = MemoryBudget(100)
    first, second = await hold(room, ("a", 50), ("a", 50))
    first._end.set()
    await asyncio.sleep(0)  # the first has given its room to the second, which is not told yet
    second.task.cancel()
    await asyncio.gather(first.task, second.task, return_exceptions=True)
    async with room.take("a", 50), room.take("b", 50):
        pass


async def test_an_error_of_whoever_holds_it_gives_it_back() -> None:
    room = MemoryBudget(100)
    with pytest.raises(TimeoutError):
        async with room.take("a", 50):
            raise TimeoutError
    async with room.take("a", 50), room.take("b", 50):
        pass
