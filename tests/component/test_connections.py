"""Connections past the limit: those that keep the worker waiting make room for others."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import orjson
import pytest

from app.web.fast_lane import Runner
from tests.component.test_fast_lane import Place, answer, connected, lookup, request, serving

MOST = 16
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    """Serve few connections."""
    asked: Any = {"max_connections": MOST, "client_connections": MOST}
    async with serving(Runner, monkeypatch, **asked) as serves:
        yield serves


@contextmanager
def watching(reader: asyncio.StreamReader) -> Iterator[asyncio.Task[bool]]:
    """Wait for a connection's end while a block lasts."""
    task = asyncio.create_task(ends(reader))
    try:
        yield task
    finally:
        task.cancel()


async def ends(reader: asyncio.StreamReader) -> bool:
    """Return whether a connection ends without an answer."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def asked(streams: Streams) -> bytes:
    """Return the status of an answer to a plain registration."""
    reader, writer = streams
    writer.write(request())
    return (await answer(reader))[0]


KEPT_WAITING = {
    "says nothing": b"",
    "half a head": b"POST /users HTTP/1.1\r\nHost: regis",
    "half a plain body": request()[:-10],
    "half a body for aiohttp": request(path="/users/batch")[:-10],
    "an answer is read, no request follows": lookup("here-1.~_"),
}


@pytest.mark.parametrize("sent", KEPT_WAITING.values(), ids=KEPT_WAITING)
async def test_who_keeps_the_worker_waiting_makes_room(place: Place, sent: bytes) -> None:
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(connected(place)) for _ in range(MOST)]
        for reader, writer in silent:
            writer.write(sent)
            if sent == lookup("here-1.~_"):
                await answer(reader)
        honest = await stack.enter_async_context(connected(place))
        assert await asked(honest) == b"HTTP/1.1 202 Accepted"
        await asyncio.wait(
            [stack.enter_context(watching(reader)) for reader, _ in silent],
            return_when=asyncio.FIRST_COMPLETED,
        )


async def test_one_too_many_is_told_so(place: Place) -> None:
    place.producer.silent = True
    async with AsyncExitStack() as stack:
        for number in range(MOST):
            _, writer = await stack.enter_async_context(connected(place))
            writer.write(request())
            await until_sent(place, number + 1)
        reader, writer = await stack.enter_async_context(connected(place))
        writer.write(request())
        status, headers, body = await answer(reader)
        assert status == b"HTTP/1.1 503 Service Unavailable"
        assert (headers["Retry-After"], headers["Connection"]) == ("1", "close")
        assert orjson.loads(body)["type"] == "urn:user-registry:problem:too-many-connections"
        assert await ends(reader)
        place.producer.acknowledge()


async def test_those_that_end_make_room(place: Place) -> None:
    for _ in range(3 * MOST):
        async with connected(place) as streams:
            assert await asked(streams) == b"HTTP/1.1 202 Accepted"


async def until_sent(place: Place, count: int) -> None:
    """Wait until so many writes were sent to the broker."""
    async with asyncio.timeout(30):
        while len(place.producer.asked) < count:
            await asyncio.sleep(0.001)
