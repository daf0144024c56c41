"""A graceful stop: first it is told, then writes are refused, then those under way are finished."""

import asyncio

from app.worker.shutdown import Shutdown


async def test_a_stop_takes_its_steps_in_order() -> None:
    steps: list[str] = []
    busy = [True, True, False]
    shutdown = Shutdown(0.05, 5, lambda: steps.append("refuse"), lambda: busy.pop(0))
    assert not shutdown.is_under_way
    winding = asyncio.create_task(shutdown.wind_down())
    await asyncio.sleep(0)
    assert (shutdown.is_under_way, steps) == (True, [])
    await winding
    assert (steps, busy) == (["refuse"], [])


async def test_what_does_not_finish_is_left() -> None:
    shutdown = Shutdown(0, 0.05, lambda: None, lambda: True)
    async with asyncio.timeout(30):
        await shutdown.wind_down()
