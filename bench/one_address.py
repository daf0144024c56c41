"""Measures how processes share one address: who gets the connections, and what a restart loses.

``python -m bench.one_address`` prints a table; docs/decisions/one-address.md has one. It needs
neither broker nor workers: small servers on the workers' event loop stand for them.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

import click
import uvloop

from app.web.accepting import Accepting
from app.web.server import BACKLOG, hear_of_who_speaks
from local.machine import HOST, free_port

PROCESSES = 4
#: Requests a second of the clients that connect anew for each.
RATE = 1_000
CLIENTS = 32
#: What a request costs its server: about what a registration does.
REQUEST_CPU_SECONDS = 50e-6
START_SECONDS = 5.0
#: Between two restarts.
PAUSE_SECONDS = 0.1

_FORK = multiprocessing.get_context("fork")


class _Answers(asyncio.Protocol):
    """Answers whatever comes with the id of its process."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        _OPEN.add(transport)

    def data_received(self, data: bytes) -> None:
        until = time.perf_counter() + REQUEST_CPU_SECONDS
        while time.perf_counter() < until:
            pass
        self._transport.write(f"{os.getpid()}\n".encode())  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        _OPEN.discard(self._transport)


_OPEN: set[asyncio.BaseTransport] = set()


async def _until_asked_to_end(stop: Callable[[], None]) -> None:
    """Serve; once asked to end, accept no more, end what is open when its client is done."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    stop()
    while _OPEN:
        await asyncio.sleep(0.005)


async def _by_its_own(port: int) -> None:
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind((HOST, port))
    server = await asyncio.get_running_loop().create_server(_Answers, sock=own, backlog=BACKLOG)
    hear_of_who_speaks([own.fileno()])
    await _until_asked_to_end(server.close)


async def _by_the_loop(listening: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(
        _Answers, sock=listening, backlog=BACKLOG
    )
    await _until_asked_to_end(server.close)


async def _few_at_a_time(listening: socket.socket) -> None:
    accepting = Accepting(listening, _Answers)
    await _until_asked_to_end(accepting.stop)


@dataclass(frozen=True)
class Way:
    """A way to share an address."""

    name: str
    #: Returns what each process runs, given a port.
    begin: Callable[[int], Callable[[], None]]


def _shared(serve: Callable[[socket.socket], object]) -> Callable[[int], Callable[[], None]]:
    def begin(port: int) -> Callable[[], None]:
        listening = socket.create_server((HOST, port), backlog=BACKLOG)
        hear_of_who_speaks([listening.fileno()])
        return lambda: uvloop.run(serve(listening))  # type: ignore[arg-type]

    return begin


WAYS = (
    Way("SO_REUSEPORT, a socket each", lambda port: lambda: uvloop.run(_by_its_own(port))),
    Way("one socket, the loop accepts", _shared(_by_the_loop)),
    Way("one socket, at most two in a millisecond", _shared(_few_at_a_time)),
)


def _start(serve: Callable[[], None]) -> BaseProcess:
    process = _FORK.Process(target=serve)
    process.start()
    return process


async def _ask(port: int) -> str:
    """Return who answers on a new connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(b"?")
        answer = await reader.readline()
        if not answer:
            raise ConnectionError("ended without an answer")
        return answer.decode()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _until_all_serve(port: int, count: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    seen: set[str] = set()
    while len(seen) < count and time.monotonic() < deadline:
        try:
            seen |= set(await asyncio.gather(*(_ask(port) for _ in range(64))))
        except OSError:
            await asyncio.sleep(0.05)


async def _spread(port: int, connections: int) -> Sequence[int]:
    """Return how many of the connections each process has, the fewest first."""

    async def one() -> str:
        reader, writer = await asyncio.open_connection(HOST, port)
        writers.append(writer)
        for _ in range(20):
            writer.write(b"?")
            answer = await reader.readline()
        return answer.decode()

    writers: list[asyncio.StreamWriter] = []
    found = Counter(await asyncio.gather(*(one() for _ in range(connections))))
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    return sorted([*found.values(), *[0] * (PROCESSES - len(found))])


async def _failures(port: int, is_over: Event) -> tuple[int, int]:
    """Return how many requests were sent while processes were restarted, and how many failed."""
    sent = failed = 0

    async def client() -> None:
        nonlocal sent, failed
        while not is_over.is_set():
            sent += 1
            try:
                await _ask(port)
            except OSError:
                failed += 1
            await asyncio.sleep(CLIENTS / RATE)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return sent, failed


def _clients(port: int, is_over: Event, told: Connection) -> None:
    told.send(asyncio.run(_failures(port, is_over)))


def _measure(way: Way, restarts: int) -> Sequence[str]:
    port = free_port()
    serve = way.begin(port)
    processes = [_start(serve) for _ in range(PROCESSES)]
    try:
        asyncio.run(_until_all_serve(port, PROCESSES))
        spread = [asyncio.run(_spread(port, count)) for count in (64, 64, 64, 512, 512, 512)]
        is_over, (here, there) = _FORK.Event(), _FORK.Pipe()
        # A process of their own: those that are forked meanwhile must not hold their connections.
        clients = _start(lambda: _clients(port, is_over, there))
        for number in range(restarts):
            former = processes[number % PROCESSES]
            former.terminate()
            former.join()
            processes[number % PROCESSES] = _start(serve)
            time.sleep(PAUSE_SECONDS)
        is_over.set()
        sent, failed = here.recv()
        clients.join()
    finally:
        for process in processes:
            process.kill()
            process.join()
    told = [" ".join(map(str, each)) for each in spread]
    return [way.name, ", ".join(told[:3]), ", ".join(told[3:]), f"{failed} of {sent}"]


@click.command()
@click.option("--restarts", default=60, show_default=True)
def main(restarts: int) -> None:
    """Print what each way gives."""
    print("| way | shares of 64 connections | of 512 | requests failed |")
    print("| --- | --- | --- | --- |")
    for way in WAYS:
        print(f"| {' | '.join(_measure(way, restarts))} |", flush=True)


if __name__ == "__main__":
    main()
