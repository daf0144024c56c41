"""One task collects for all who watch; a slow one misses some; too many are refused."""

import asyncio
from contextlib import ExitStack

import pytest

from app.domain.errors import NotReadyError, OverloadedError, TooManyRequestsError, Unavailable
from app.query.overview.watching import MAX_WATCHERS, MAX_WATCHERS_OF_CLIENT, Watching


class Moments:
    """Counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.failures = 0

    async def collect(self) -> int:
        if self.failures:
            self.failures -= 1
            raise NotReadyError(Unavailable.OWNER_UNREACHABLE)
        self.asked += 1
        return self.asked


def tell(now: int, before: int) -> bytes:
    return f"{before}-{now}".encode()


@pytest.fixture
def moments() -> Moments:
    return Moments()


@pytest.fixture
def watching(moments: Moments) -> Watching[int]:
    return Watching(moments.collect, tell, every_seconds=0.001)


async def test_all_watchers_are_told_the_same_by_one_task(
    watching: Watching[int], moments: Moments
) -> None:
    with ExitStack() as held:
        watchers = [held.enter_context(watching.watcher(f"client-{n}")) for n in range(50)]
        told = await asyncio.gather(*(anext(ticks) for ticks in watchers))
    assert set(told) == {b"1-2"}
    # It may have collected again before the watchers left.
    assert 2 <= moments.asked < len(watchers)


async def test_nothing_is_collected_while_nobody_watches(
    watching: Watching[int], moments: Moments
) -> None:
    with watching.watcher("client") as ticks:
        assert await anext(ticks) == b"1-2"
        with watching.watcher("client"):
            pass
        assert watching.is_collecting
    assert not watching.is_collecting
    # What was collected long ago is no moment to compare with.
    with watching.watcher("client") as ticks:
        assert await anext(ticks) == b"3-4"


async def test_a_slow_watcher_misses_some_and_is_told_the_newest(
    watching: Watching[int], moments: Moments
) -> None:
    with watching.watcher("client") as slow, watching.watcher("client") as quick:
        first = await anext(slow)
        while moments.asked < 20:
            await anext(quick)
        last = int((await anext(slow)).partition(b"-")[2])
    assert first == b"1-2"
    assert last >= 20


async def test_who_comes_when_too_many_watch_is_refused(watching: Watching[int]) -> None:
    with ExitStack() as held:
        for number in range(MAX_WATCHERS):
            held.enter_context(watching.watcher(f"client-{number}"))
        with pytest.raises(OverloadedError), watching.watcher("client"):
            pass
        # Who only looks is told all the same.
        with watching.look() as ticks:
            await anext(ticks)
    with watching.watcher("client"):
        pass


async def test_one_client_leaves_room_for_others(watching: Watching[int]) -> None:
    with ExitStack() as held:
        for _ in range(MAX_WATCHERS_OF_CLIENT):
            held.enter_context(watching.watcher("greedy"))
        with pytest.raises(TooManyRequestsError), watching.watcher("greedy"):
            pass
        with watching.watcher("other"):
            pass
    with watching.watcher("greedy"):
        pass


async def test_watching_ends_when_the_worker_stops(watching: Watching[int]) -> None:
    with watching.watcher("client") as ticks:
        await anext(ticks)
        watching.stop()
        assert [told async for told in ticks] == []
    with pytest.raises(NotReadyError), watching.watcher("client"):
        pass
    assert not watching.is_collecting


async def test_what_waits_for_a_tick_is_woken_by_the_stop(moments: Moments) -> None:
    watching = Watching(moments.collect, tell, every_seconds=1_000)
    with watching.watcher("client") as ticks:
        waiting = asyncio.ensure_future(anext(ticks, None))
        await asyncio.sleep(0)
        watching.stop()
        assert await waiting is None


async def test_a_moment_that_fails_is_only_missed(
    watching: Watching[int], moments: Moments
) -> None:
    moments.failures = 2
    with watching.watcher("client") as ticks:
        assert await anext(ticks) == b"1-2"
