"""Connections that have not agreed on TLS count, make room and end, on either loop."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from app.config.tls import loaded
from app.system.loop import Loop
from app.web.fast_lane import Runner, _Server
from app.web.http import tls_handshakes
from app.web.http.connections import MAX_TOLD
from tests.component.test_fast_lane import Place, answer, lookup, request, serving, until
from tests.support.authority import Authority

MOST = 16
HOST = "127.0.0.1"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
#: Runs a test with a registry that serves https.
Run = Callable[[Callable[["Secured"], Awaitable[None]]], None]


@dataclass
class Secured:
    """A place that serves https to few connections, and how clients trust it."""

    place: Place
    server: _Server
    trust: ssl.SSLContext

    @property
    def count(self) -> int:
        """How many connections are counted."""
        return self.server.held._count

    async def silent(self, stack: AsyncExitStack) -> Streams:
        """Return a connection on which nothing is said."""
        return await stack.enter_async_context(opened(self.place.port))

    async def greeted(self, stack: AsyncExitStack) -> Streams:
        """Return a connection that has agreed on TLS."""
        return await stack.enter_async_context(opened(self.place.port, self.trust))


@asynccontextmanager
async def opened(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(HOST, port, ssl=tls)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def status_of(streams: Streams, sent: bytes) -> bytes:
    """Return the status of an answer."""
    reader, writer = streams
    writer.write(sent)
    return (await answer(reader))[0].split()[1]


def is_asked(place: Place, times: int) -> bool:
    """Return whether the broker was asked so often."""
    return len(place.producer.asked) >= times


async def ends(streams: Streams) -> None:
    """Wait until a connection has ended."""
    try:
        while await streams[0].read(1_000):
            pass
    except (ConnectionError, ssl.SSLError):
        pass


@pytest.fixture(params=[asyncio.new_event_loop, Loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    authority = Authority(tmp_path)
    authority.issue()
    cert, key = authority.files
    trust = ssl.create_default_context(cafile=authority.ca_file)
    asked: dict[str, Any] = {"max_connections": MOST, "client_connections": MOST}

    async def serve(test: Callable[[Secured], Awaitable[None]]) -> None:
        runners: list[Runner] = []

        def make(app: web.Application, **options: Any) -> Runner:
            runners.append(Runner(app, tls=loaded(cert, key), **options))
            return runners[0]

        async with asyncio.timeout(30), serving(make, monkeypatch, **asked) as place:
            server = cast(_Server, runners[0].server)
            await test(Secured(place, server, trust))
            await until(lambda: server.held._count == 0)
            await until(lambda: not server.held._told)

    def run(test: Callable[[Secured], Awaitable[None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(serve(test))

    return run


def test_requests_are_answered_and_counted_once(run: Run) -> None:
    async def test(secured: Secured) -> None:
        async with AsyncExitStack() as stack:
            streams = [await secured.greeted(stack) for _ in range(5)]
            for each in streams:
                for _ in range(2):
                    assert await status_of(each, request()) == b"202"
                    assert await status_of(each, lookup("here-1.~_")) == b"200"
                    assert secured.place.is_fast
            assert secured.count == len(streams)

    run(test)


def test_who_says_nothing_counts_and_makes_room(run: Run) -> None:
    async def test(secured: Secured) -> None:
        async with AsyncExitStack() as stack:
            silent = [await secured.silent(stack) for _ in range(MOST)]
            await until(lambda: secured.count == MOST)
            honest = await secured.greeted(stack)
            assert await status_of(honest, request()) == b"202"
            await ends(silent[0])
            assert secured.count == MOST

    run(test)


def test_however_many_come_no_more_are_held(run: Run) -> None:
    async def test(secured: Secured) -> None:
        async with AsyncExitStack() as stack:
            silent = [await secured.silent(stack) for _ in range(4 * MOST)]
            ending = [asyncio.create_task(ends(each)) for each in silent]
            await until(lambda: sum(task.done() for task in ending) >= 3 * MOST)
            assert secured.count <= MOST
            honest = await secured.greeted(stack)
            assert await status_of(honest, lookup("here-1.~_")) == b"200"
            for task in ending:
                task.cancel()

    run(test)


def test_who_does_not_agree_in_time_is_cut_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_handshakes, "GREETING_SECONDS", 0.2)

    async def test(secured: Secured) -> None:
        async with AsyncExitStack() as stack:
            silent = await secured.silent(stack)
            half = await secured.silent(stack)
            half[1].write(b"\x16\x03\x01\x02\x00\x01")
            await until(lambda: secured.count == 2)
            await ends(silent)
            await ends(half)
            await until(lambda: secured.count == 0)

    run(test)


@pytest.mark.parametrize("sent", [request(), b"\x00" * 100, b"\x16\x03\x01\x00\x05hello"])
def test_who_speaks_something_else_is_cut_off(run: Run, sent: bytes) -> None:
    async def test(secured: Secured) -> None:
        async with AsyncExitStack() as stack:
            stranger = await secured.silent(stack)
            stranger[1].write(sent)
            await ends(stranger)
            assert secured.place.producer.sent == []

    run(test)


def test_at_the_end_nobody_is_waited_for(run: Run) -> None:
    async def test(secured: Secured) -> None:
        stack = AsyncExitStack()
        silent = await secured.silent(stack)
        await until(lambda: secured.count == 1)
        await secured.server.shutdown(10)
        await ends(silent)

    run(test)


def test_who_goes_away_is_counted_out(run: Run) -> None:
    async def test(secured: Secured) -> None:
        async with AsyncExitStack() as stack:
            streams = [await secured.silent(stack) for _ in range(3)]
            streams[0][1].write(b"\x16\x03\x01\x02\x00\x01")
            await until(lambda: secured.count == 3)
            streams[0][1].close()
            streams[1][1].close()
            streams[2][1].transport.abort()
            await until(lambda: secured.count == 0)

    run(test)


def test_one_too_many_is_told_so(run: Run) -> None:
    async def test(secured: Secured) -> None:
        secured.place.producer.silent = True
        async with AsyncExitStack() as stack:
            for number in range(MOST):
                _, writer = await secured.greeted(stack)
                writer.write(request())
                await until(partial(is_asked, secured.place, number + 1))
            more = await secured.greeted(stack)
            assert await status_of(more, request()) == b"503"
            await ends(more)
            # Of those that say nothing, only as many are held as are told why.
            silent = [await secured.silent(stack) for _ in range(2 * MAX_TOLD)]
            ending = [asyncio.create_task(ends(each)) for each in silent]
            await until(lambda: sum(task.done() for task in ending) >= MAX_TOLD)
            assert len(secured.server.held._told) <= MAX_TOLD
            for task in ending:
                task.cancel()
        secured.place.producer.acknowledge()

    run(test)
