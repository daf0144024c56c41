"""A client that registers users by a schedule and follows some of them until they are settled.

``python -m bench.live_client`` takes its `Task` as JSON on the standard input, and writes what it
saw as JSON. The model is open: requests are due at fixed moments, whether or not earlier ones were
answered. All times count from the moment at which the POST was due. POSTs and probes have
connections of their own.
"""

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

import httptools
import orjson
import uvloop

#: Both run on one machine.
HOST = "127.0.0.1"
#: How often a second the schedule is looked at. The event loop's timers have milliseconds.
TICKS_PER_SECOND = 1_000
#: A probe that is told to come again does so after this time.
PROBE_RETRY_SECONDS = 0.05

#: Called with the status and the body; with status 0 if the connection broke.
Answered = Callable[[int, bytes], None]


@dataclass(frozen=True, slots=True)
class Task:
    """How many registrations to send, where to, and how many of them to follow."""

    port: int
    per_second: float
    warm_up_seconds: float
    seconds: float
    #: Ids and addresses begin with it. No two tasks on one registry may have the same.
    prefix: str
    probes_per_second: float = 10.0
    #: A POST waits for a free one if all of these are in use.
    max_connections: int = 512
    #: How long to wait for answers after the last request was due.
    patience_seconds: float = 15.0


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._answered: Answered | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, answered: Answered) -> None:
        """Send a request; the callback gets its answer."""
        assert self._transport is not None
        self._answered = answered
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take bytes of an answer."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that there will be no answer."""
        self._pool.lose(self)
        if self._answered is not None:
            answered, self._answered = self._answered, None
            answered(0, b"")

    def on_body(self, body: bytes) -> None:
        """Take a part of a body (called by the parser)."""
        self._body += body

    def on_message_complete(self) -> None:
        """Hand the answer over (called by the parser)."""
        body, self._body = self._body, b""
        answered, self._answered = self._answered, None
        status = self._parser.get_status_code()
        if self._parser.should_keep_alive():
            self._pool.release(self)
        if answered is not None:
            answered(status, body)


class Pool:
    """Keep-alive connections, opened as they are needed; the one used last is used next."""

    def __init__(self, port: int, most: int) -> None:
        self._port = port
        self._most = most
        self._opened = 0
        self._free: list[Connection] = []
        self._waiting: deque[tuple[bytes, Answered]] = deque()
        self._opening: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> None:
        """Open connections beforehand."""
        for _ in range(count):
            self._opened += 1
            await self._open()

    def send(self, request: bytes, answered: Answered) -> None:
        """Send a request on a free connection, now or as soon as there is one."""
        if self._free:
            self._free.pop().send(request, answered)
            return
        self._waiting.append((request, answered))
        if self._opened < self._most:
            self._opened += 1
            opening = asyncio.ensure_future(self._open())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def release(self, connection: Connection) -> None:
        """Use a connection again."""
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._free.append(connection)

    def lose(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._opened -= 1
        if connection in self._free:
            self._free.remove(connection)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: Connection(self), HOST, self._port)
        except OSError:
            self._opened -= 1
            if self._waiting:
                self._waiting.popleft()[1](0, b"")
        else:
            self.release(connection)


@dataclass(slots=True)
class Seen:
    """What was seen of the requests that were due in the measured window. Times are seconds."""

    acks: list[float] = field(default_factory=list)
    settled: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    #: Acknowledged ones that were asked for until they were settled.
    followed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return percentiles and counts."""
        return {
            "sent": self.sent,
            "acknowledged": len(self.acks),
            "refused": dict(self.refused),
            "unanswered": self.sent - len(self.acks) - self.refused.total(),
            "followed": self.followed,
            "unsettled": self.followed - len(self.settled),
            "ack_p50_ms": percentile_ms(self.acks, 0.5),
            "ack_p99_ms": percentile_ms(self.acks, 0.99),
            "settled_p50_ms": percentile_ms(self.settled, 0.5),
            "settled_p99_ms": percentile_ms(self.settled, 0.99),
            "late_p99_ms": percentile_ms(self.late, 0.99),
        }


def percentile_ms(seconds: Sequence[float], share: float) -> float | None:
    """Return what so large a share of some times does not exceed, in milliseconds."""
    ordered = sorted(seconds)
    return ordered[int((len(ordered) - 1) * share)] * 1000 if ordered else None


class Client:
    """One run of a task."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._seen = Seen()
        self._posts = Pool(task.port, task.max_connections)
        self._probes = Pool(task.port, task.max_connections)
        self._under_way = 0
        self._head = f"Host: {HOST}:{task.port}\r\n".encode()
        self._every = max(1, round(task.per_second / task.probes_per_second))
        #: When the window began and ended, by the clock of all processes, and CPU time by then.
        self._moments: list[tuple[float, float]] = []

    async def run(self) -> dict[str, Any]:
        """Send all, wait for the answers, and return what was seen."""
        await self._posts.open(min(32, self._task.max_connections))
        await self._probes.open(4)
        await self._send_all()
        deadline = perf_counter() + self._task.patience_seconds
        while self._under_way and perf_counter() < deadline:
            await asyncio.sleep(0.01)
        (began, cpu_before), (ended, cpu_after) = self._moments
        cpu = (cpu_after - cpu_before) / (ended - began)
        told = {"began": began, "ended": ended, "client_cpu": cpu}
        return {**self._seen.as_json(), **told}

    async def _send_all(self) -> None:
        task = self._task
        warm_up = round(task.warm_up_seconds * task.per_second)
        total = warm_up + round(task.seconds * task.per_second)
        began = perf_counter()
        number = 0
        while number < total:
            now = perf_counter()
            due = min(total, int((now - began) * task.per_second) + 1)
            if number <= warm_up < due and not self._moments:
                self._note_moment()
            for each in range(number, due):
                self._register(each, began + each / task.per_second, each >= warm_up)
            number = due
            wait = max(1 / TICKS_PER_SECOND, began + number / task.per_second - perf_counter())
            await asyncio.sleep(wait)
        self._note_moment()

    def _note_moment(self) -> None:
        self._moments.append((time.time(), time.process_time()))

    def _register(self, number: int, due: float, counts: bool) -> None:
        user_id = f"{self._task.prefix}-{number}"
        body = b'{"id":"%b","name":"Ada King","email":"%b@example.com"}' % ((user_id.encode(),) * 2)
        request = b"POST /users HTTP/1.1\r\n%bContent-Type: application/json\r\n" % self._head
        request += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        follow = counts and number % self._every == 0
        self._under_way += 1
        if counts:
            self._seen.sent += 1
            self._seen.late.append(perf_counter() - due)

        def answered(status: int, answer: bytes) -> None:
            self._under_way -= 1
            if not counts:
                return
            if status != 202:
                self._seen.refused[str(status)] += 1
                return
            self._seen.acks.append(perf_counter() - due)
            if follow:
                self._seen.followed += 1
                self._under_way += 1
                self._probe(user_id, orjson.loads(answer)["position"], due)

        self._posts.send(request, answered)

    def _probe(self, user_id: str, position: str, due: float) -> None:
        """Ask for a user as it is after its write, until it is there."""
        request = b"GET /users/%b?after=%b HTTP/1.1\r\n%b\r\n" % (
            user_id.encode(),
            position.encode(),
            self._head,
        )

        def answered(status: int, answer: bytes) -> None:
            if status == 200 and orjson.loads(answer)["status"] == "registered":
                self._seen.settled.append(perf_counter() - due)
                self._under_way -= 1
            elif perf_counter() - due < self._task.patience_seconds:
                asyncio.get_running_loop().call_later(
                    PROBE_RETRY_SECONDS, self._probes.send, request, answered
                )
            else:
                self._under_way -= 1

        self._probes.send(request, answered)


if __name__ == "__main__":
    given = Task(**orjson.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(Client(given).run())))
