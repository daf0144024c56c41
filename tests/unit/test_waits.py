"""Those that wait make room for others, the ones of the greediest client first."""

import asyncio

import pytest

from app.web.http.waits import Waits


class Waiter:
    """A request that waits until it must make room."""

    def __init__(self, waits: Waits, client: str) -> None:
        self.task = asyncio.create_task(self._wait(waits, client))

    async def _wait(self, waits: Waits, client: str) -> str:
        try:
            async with waits.place(client):
                await asyncio.sleep(3600)
        except TimeoutError:
            return "made room"
        return "waited"


async def turns() -> None:
    """Let everybody go on."""
    for _ in range(10):
        await asyncio.sleep(0.001)


async def waiting(waits: Waits, *clients: str) -> list[Waiter]:
    found = []
    for client in clients:
        found.append(Waiter(waits, client))
        await turns()
    return found


async def end(*waiters: Waiter) -> None:
    for each in waiters:
        each.task.cancel()
    await asyncio.gather(*(each.task for each in waiters), return_exceptions=True)


async def test_the_oldest_of_who_has_most_makes_room() -> None:
    waits = Waits(3)
    honest, first, second, third = await waiting(waits, "honest", "greedy", "greedy", "greedy")
    assert await first.task == "made room"
    assert [each.task.done() for each in (honest, second, third)] == [False, False, False]
    await end(honest, second, third)


async def test_who_has_ended_needs_no_room() -> None:
    waits = Waits(1)
    for _ in range(3):
        async with waits.place("a"):
            await asyncio.sleep(0)
    await end(*await waiting(waits, "a"))
    await end(*await waiting(waits, "a"))


async def test_what_fails_meanwhile_is_told_as_it_is() -> None:
    waits = Waits(1)
    with pytest.raises(LookupError):
        async with waits.place("a"):
            raise LookupError
