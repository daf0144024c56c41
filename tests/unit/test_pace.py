"""Applying gives way to writes while the loop is late."""

import asyncio
import time

import pytest

from app.engine.pace import (
    EASY_LAG_SECONDS,
    FULL_LAG_SECONDS,
    LEAST_SHARE,
    TRANSACTION_SECONDS,
    Pace,
)


def pace(*, writes_wait: bool, late_seconds: float) -> Pace:
    made = Pace()
    made.give_way(lambda: writes_wait)
    for _ in range(100):
        made.note(late_seconds)
    return made


@pytest.mark.parametrize(
    ("writes_wait", "late_seconds", "share"),
    [
        (False, 1.0, 1.0),
        (True, 0.0, 1.0),
        (True, EASY_LAG_SECONDS, 1.0),
        (True, 1.0, LEAST_SHARE),
    ],
)
def test_it_rests_only_while_writes_wait_and_the_loop_is_late(
    writes_wait: bool, late_seconds: float, share: float
) -> None:
    assert pace(writes_wait=writes_wait, late_seconds=late_seconds).share == pytest.approx(share)


def test_the_later_the_loop_the_smaller_the_share() -> None:
    lates = [FULL_LAG_SECONDS * tenths / 10 for tenths in range(12)]
    shares = [pace(writes_wait=True, late_seconds=late).share for late in lates]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[6] > shares[-1] == LEAST_SHARE


async def test_batches_keep_to_their_share() -> None:
    busy = pace(writes_wait=True, late_seconds=FULL_LAG_SECONDS * 2)
    began = time.perf_counter()
    for _ in range(3):
        await busy.turn()
    # Two rests follow the first two transactions.
    assert time.perf_counter() - began > 2 * TRANSACTION_SECONDS * (1 / LEAST_SHARE - 1)


async def test_nobody_waits_when_there_is_no_need() -> None:
    idle = pace(writes_wait=False, late_seconds=1)
    async with asyncio.timeout(1):
        for _ in range(1_000):
            await idle.turn()
            with idle.spending():
                pass


async def test_it_sees_how_late_the_loop_is() -> None:
    seen = Pace()
    seen.give_way(lambda: True)
    watching = asyncio.create_task(seen.watch())
    async with asyncio.timeout(10):
        while seen.share == 1.0:
            time.sleep(0.02)
            await asyncio.sleep(0)
    watching.cancel()
