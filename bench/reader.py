"""A client that looks users up over keep-alive connections: a process of its own.

``python -m bench.reader`` takes its `Task` as JSON on the standard input, and writes what it saw as
JSON. By a rate, latencies count from when a request was due, so that a slow server cannot hide what
it made wait.
"""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import httptools
import orjson
import uvloop


@dataclass(frozen=True, slots=True)
class Task:
    """Whom to ask for whom: a random one of the paths, again and again."""

    port: int
    paths: Sequence[str]
    connections: int
    seconds: float
    #: Requests a second; None is as many as are answered.
    rate: float | None = None
    warm_up_seconds: float = 1.0
    seed: int = 1


@dataclass(slots=True)
class Seen:
    """Answers by status, those that are not of whom was asked for, and latencies in ms."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    latencies: list[float] = field(default_factory=list)

    def as_json(self, seconds: float) -> dict[str, Any]:
        """Return what the caller wants to know."""
        ordered = sorted(self.latencies)
        return {
            "per_second": len(ordered) / seconds,
            "p50_ms": ordered[len(ordered) // 2],
            "p99_ms": ordered[int(len(ordered) * 0.99)],
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "wrong": self.wrong,
        }


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer: asyncio.Future[tuple[int, bytes]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    async def get(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Take bytes of an answer."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        if not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed a connection"))

    def on_body(self, body: bytes) -> None:
        """Take a part of a body (called by the parser)."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the answer over (called by the parser)."""
        body, self._body = b"".join(self._body), []
        self._answer.set_result((self._parser.get_status_code(), body))


async def read(task: Task) -> dict[str, Any]:
    """Look users up for a time; return what was seen."""
    loop, seen = asyncio.get_running_loop(), Seen()
    begin = perf_counter() + task.warm_up_seconds
    end = begin + task.seconds
    requests = _requests(task)
    due = _due(task, perf_counter())

    async def one_connection() -> None:
        _, connection = await loop.create_connection(Connection, "127.0.0.1", task.port)
        for wanted in due:
            if (wait := wanted - perf_counter()) > 0:
                await asyncio.sleep(wait)
            since = wanted if task.rate else perf_counter()
            if since >= end:
                return
            name, request = next(requests)
            status, body = await connection.get(request)
            if since >= begin:
                seen.statuses[status] += 1
                seen.wrong += status == 200 and bool(body) and name not in body
                seen.latencies.append((perf_counter() - since) * 1000)

    wall = time.time() + task.warm_up_seconds
    await asyncio.gather(*(one_connection() for _ in range(task.connections)))
    return {**seen.as_json(task.seconds), "began": wall, "ended": wall + task.seconds}


def _requests(task: Task) -> Iterator[tuple[bytes, bytes]]:
    dice = random.Random(task.seed)
    while True:
        path = dice.choice(task.paths).encode()
        head = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: application/json\r\n\r\n"
        wanted = unquote_to_bytes(path).rpartition(b"/")[2].rpartition(b"=")[2]
        yield wanted, head % (path, task.port)


def _due(task: Task, begin: float) -> Iterator[float]:
    number = 0
    while True:
        yield begin + number / task.rate if task.rate else 0.0
        number += 1


def describe(task: Task) -> bytes:
    """Return a task as this process takes it."""
    return orjson.dumps(asdict(task))


if __name__ == "__main__":
    given = Task(**orjson.loads(sys.stdin.buffer.read()))
    told = uvloop.run(read(given))
    sys.stdout.buffer.write(orjson.dumps(told))
