"""One task collects for all who watch; a slow one misses some."""

import asyncio
from contextlib import ExitStack

import pytest

from app.domain.errors import NotReadyError, Unavailable
from app.query.overview.watching import Watching


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
        watchers = [held.enter_context(watching.watch()) for n in range(50)]
        told = await asyncio.gather(*(anext(ticks) for ticks in watchers))
    assert set(told) == {b"1-2"}
    # It may have collected again before the watchers left.
    assert 2 <= moments.asked < len(watchers)


async def test_nothing_is_collected_while_nobody_watches(
    watching: Watching[int], moments: Moments
) -> None:
    with watching.watch() as ticks:
        assert await anext(ticks) == b"1-2"
        with watching.watch():
            pass
        assert watching.is_collecting
    assert not watching.is_collecting
    # What was collected long ago is no moment to compare with.
    with watching.watch() as ticks:
        assert await anext(ticks) == b"3-4"


async def test_a_slow_watcher_misses_some_and_is_told_the_newest(
    watching: Watching[int], moments: Moments
) -> None:
    with watching.watch() as slow, watching.watch() as quick:
        first = await anext(slow)
        while moments.asked < 20:
            await anext(quick)
        last = int((await anext(slow)).partition(b"-")[2])
    assert first == b"1-2"
    assert last >= 20


async def test_watching_ends_when_the_worker_stops(watching: Watching[int]) -> None:
    with watching.watch() as ticks:
        await anext(ticks)
        watching.stop()
        assert [told async for told in ticks] == []
    with pytest.raises(NotReadyError), watching.watch():
        pass
    assert not watching.is_collecting


async def test_what_waits_for_a_tick_is_woken_by_the_stop(moments: Moments) -> None:
    watching = Watching(moments.collect, tell, every_seconds=1_000)
    with watching.watch() as ticks:
        waiting = asyncio.ensure_future(anext(ticks, None))
        await asyncio.sleep(0)
        watching.stop()
        assert await waiting is None


async def test_a_moment_that_fails_is_only_missed(
    watching: Watching[int], moments: Moments
) -> None:
    moments.failures = 2
    with watching.watch() as ticks:
        assert await anext(ticks) == b"1-2"
