"""The connections of a run; new ones replace those that ended."""

import asyncio
import ssl
from collections import deque
from itertools import repeat
from time import perf_counter

from tools.load.connection import Connection, Drives, Request, connect, kind_of
from tools.load.options import LoadError, Options


class Pool:
    """A fixed number of connections, used in turn."""

    def __init__(self, options: Options, driver: Drives) -> None:
        self._options = options
        self._driver = driver
        self._target = options.target
        self._tls = options.tls()
        self._connections: set[Connection] = set()
        #: None stands for a connection that must be made first.
        self._free: deque[Connection | None] = deque()
        self._making: set[asyncio.Task[None]] = set()

    @property
    def has_free(self) -> bool:
        """Whether a request can be sent now."""
        return bool(self._free)

    async def fill(self) -> None:
        """Make all connections; raise `LoadError` if nothing answers."""
        try:
            self._free.append(await self._connect())
        except OSError as error:
            raise LoadError(_unreachable(self._options.url, error)) from None
        others = repeat(self._connect, self._options.connections - 1)
        made = await asyncio.gather(*(each() for each in others), return_exceptions=True)
        self._free += [each if isinstance(each, Connection) else None for each in made]

    async def _connect(self) -> Connection:
        seconds = self._options.timeout
        connection = await connect(self._driver, self._target, self._tls, seconds)
        self._connections.add(connection)
        return connection

    def send(self, request: Request) -> None:
        """Send a request over the connection that has been free longest."""
        connection = self._free.popleft()
        if connection is not None and connection.is_open:
            connection.send(request)
            return
        self.send_anew(request)

    def send_anew(self, request: Request) -> None:
        """Send a request over a new connection."""
        task = asyncio.get_running_loop().create_task(self._connect_and_send(request))
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    async def _connect_and_send(self, request: Request) -> None:
        try:
            (await self._connect()).send(request)
        except OSError as error:
            self._driver.failed(request, kind_of(error))

    def release(self, connection: Connection | None) -> None:
        """Take back a connection, or the place of a closed one."""
        self._free.append(connection)

    def sweep(self) -> None:
        """End overdue requests, and forget closed connections."""
        sent_before = perf_counter() - self._options.timeout
        for connection in list(self._connections):
            connection.end_if_overdue(sent_before)
            if not connection.is_open:
                self._connections.discard(connection)

    def close(self) -> None:
        """Close all connections."""
        for task in self._making:
            task.cancel()
        for connection in self._connections:
            connection.close()


def _unreachable(url: str, error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"no trusted certificate at {url}: {error.verify_message}"
    return f"nothing answers at {url}: {kind_of(error)}"
