"""Limits connections: of this worker, and of each client.

Past a limit those make room whose clients have kept them waiting longest, as in nginx: for a
request, for the rest of one, for taking an answer. So who opens many and says nothing keeps nobody
out. Where it is the worker that all of them wait for, the new one is told so and ends.
"""

import asyncio
import math
from collections.abc import Collection, Sequence
from heapq import nsmallest
from operator import itemgetter
from typing import Protocol, Self

import structlog

from app.config.settings import Settings
from app.system import retries
from app.telemetry.metrics import CONNECTIONS, CONNECTIONS_CLOSED, CONNECTIONS_REFUSED
from app.web.http.problems import ProblemError
from app.worker.descriptors import allowed, reserved

log = structlog.get_logger(__name__)

#: With fewer a worker is of no use.
MIN_CONNECTIONS = 16
#: This share of all is for the internal address, if there is one: however many clients come, other
#: workers are answered, and so is who asks for health and metrics.
INTERNAL_SHARE = 8

#: When somebody must make room, this share of all does: it is looked for that more rarely.
ROOM_SHARE = 16
#: After none was found that could, none is looked for again for so long.
LOOK_AGAIN_SECONDS = 0.1
#: The log has one line in so long, however many are refused.
TELL_SECONDS = 60.0
#: How long a refused client may take to send its request, so that it reads why it is refused.
REFUSED_SECONDS = 1.0
#: Of those that are refused, so many are told why at once.
MAX_TOLD = 16

_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    b"Retry-After: %d\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
)
_BODY = ProblemError(503, "too-many-connections", "There are too many connections.").body()


def most(settings: Settings) -> int:
    """Return how many connections this worker takes: as many as it may, below its descriptors."""
    return max(min(settings.max_connections, allowed() - reserved(settings)), MIN_CONNECTIONS)


def most_of_client(settings: Settings) -> int:
    """Return how many of one address; a proxy in front has the connections of all clients."""
    of_all = most(settings)
    if settings.client_connections is not None:
        return min(settings.client_connections, of_all)
    return of_all if settings.trusted_proxies else max(of_all // 2, 1)


def _most_internally(settings: Settings) -> int:
    return 0 if settings.internal_port is None else most(settings) // INTERNAL_SHARE


class Connection(Protocol):
    """A connection, as far as it may have to make room."""

    @property
    def waits_since(self) -> float | None:
        """When its client was last heard of, by whom the next step is; None if that is ours."""
        ...

    def make_room(self) -> None:
        """End at once."""
        ...


class Connections:
    """The connections to an address of a worker, by the addresses of their clients."""

    @classmethod
    def of_clients(cls, settings: Settings) -> Self:
        """Return those to the public address."""
        of_all = most(settings) - _most_internally(settings)
        return cls(of_all, min(most_of_client(settings), of_all))

    @classmethod
    def of_workers(cls, settings: Settings) -> Self:
        """Return those to the internal address, where one machine may have them all."""
        of_all = _most_internally(settings)
        return cls(of_all, of_all)

    def __init__(self, most: int, most_of_client: int) -> None:
        self._most = most
        self._most_of_client = most_of_client
        self._by_client: dict[str, dict[Connection, None]] = {}
        self._count = 0
        self._look_at = -math.inf
        self._tell_at = -math.inf
        #: Those that are refused, and are or will be told why.
        self._told: set[object] = set()

    def admit(self, connection: Connection, client: str, now: float) -> bool:
        """Count a connection in; return False if it is one too many."""
        of_client = self._by_client.get(client, {})
        # Connections by a Unix socket have no address: what is before the worker counts them.
        if client and len(of_client) >= self._most_of_client and not self._has_room(of_client, now):
            return self._refused("client", now)
        if self._count >= self._most and not self._has_room(self.every(), now):
            return self._refused("all", now)
        self._by_client.setdefault(client, {})[connection] = None
        self._set(self._count + 1)
        return True

    def forget(self, connection: Connection, client: str) -> None:
        """Count a connection out; it may be out already."""
        self._told.discard(connection)
        of_client = self._by_client.get(client, {})
        if connection in of_client:
            del of_client[connection]
            self._set(self._count - 1)
            if not of_client:
                del self._by_client[client]

    def every(self) -> Sequence[Connection]:
        """Return all that are counted."""
        return [each for some in self._by_client.values() for each in some]

    def tells(self, connection: object) -> bool:
        """Return whether one that is refused is told why, if many are not told already."""
        if len(self._told) >= MAX_TOLD:
            return False
        self._told.add(connection)
        return True

    def refuse(self, transport: asyncio.Transport) -> None:
        """End a connection that is one too many; tell its client why, unless many are told."""
        refused = _Refused(transport, self._told)
        if self.tells(refused):
            refused.tell()
        else:
            transport.abort()

    def _set(self, count: int) -> None:
        CONNECTIONS.inc(count - self._count)
        self._count = count

    def _has_room(self, candidates: Collection[Connection], now: float) -> bool:
        """End some of those that wait for their clients; return whether there were any."""
        if now < self._look_at:
            return False
        waiting = [(since, each) for each in candidates if (since := each.waits_since) is not None]
        if not waiting:
            self._look_at = now + LOOK_AGAIN_SECONDS
            return False
        share = max(len(candidates) // ROOM_SHARE, 1)
        for _, each in nsmallest(share, waiting, key=itemgetter(0)):
            each.make_room()
            CONNECTIONS_CLOSED.inc()
        self._tell("connections that wait for their clients are closed to make room", now)
        return True

    def _refused(self, limit: str, now: float) -> bool:
        CONNECTIONS_REFUSED.labels(limit).inc()
        self._tell("connections are refused: there are too many", now)
        return False

    def _tell(self, what: str, now: float) -> None:
        if now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            log.warning(
                what,
                connections=self._count,
                most=self._most,
                most_of_client=self._most_of_client,
                advice="MAX_CONNECTIONS, CLIENT_CONNECTIONS, ulimit -n; see docs/security.md",
            )


class _Refused(asyncio.Protocol):
    """The end of a connection that is one too many: its client reads why, if it is quick."""

    def __init__(self, transport: asyncio.Transport, told: set[object]) -> None:
        self._transport = transport
        self._told = told

    def tell(self) -> None:
        """Say why, and end soon."""
        self._transport.set_protocol(self)
        self._transport.write(_REFUSAL % (retries.CLIENT.first_seconds, len(_BODY), _BODY))
        end = self._transport.abort
        self._timer = asyncio.get_running_loop().call_later(REFUSED_SECONDS, end)

    def data_received(self, data: bytes) -> None:
        """End: bytes that nobody has read would take the answer from the client."""
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that it has ended."""
        self._told.discard(self)
        self._timer.cancel()
