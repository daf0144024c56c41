"""Asks other workers over HTTP/1.1: on connections that are kept, one question at a time on each.

It can do what a question to a worker needs, and no more: a GET, whose answer has a bound, comes in
time, leads nowhere else and is not packed. aiohttp's client takes several times as long for it.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httptools
from mode import Service
from yarl import URL

from app.access.proofs import Proofs
from app.config.settings import Settings
from app.config.tls import client_tls
from app.system.http_client import AnswerTooLongError

CONNECT_TIMEOUT_SECONDS = 0.5
#: The longest answer: 1,000 users, or the newest of many partitions, are far less.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
#: Connections to one worker. If all are in use, the next request waits.
MAX_CONNECTIONS = 100
#: A connection is kept for so long while nothing is asked: for less than workers keep theirs.
KEEP_SECONDS = 30.0

#: A forwarded request has this header, and is not forwarded again. With KEYS_FILE, the value is the
#: proof that a worker sends it.
FORWARDED_HEADER = "Registry-Forwarded"


class NoAnswerError(Exception):
    """What came is no answer of a worker."""


class _UnheardError(ConnectionError):
    """A connection ended before anything of the answer came."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How other workers are asked: what proves who asks, and how their certificates are checked."""

    proofs: Proofs | None = None
    tls: ssl.SSLContext | bool = True

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return how workers with these settings ask each other."""
        if settings.keys_file is None:
            return cls(tls=client_tls(settings))
        secret, *others = settings.signing_secrets
        return cls(Proofs(secret, others=others), client_tls(settings))

    def headers(self, origin: str, path: str) -> dict[str, str]:
        """Return the headers of a GET of a path, with its query, at a worker's origin."""
        proof = "1" if self.proofs is None else self.proofs.make(origin, path)
        # What would unpack to more than it seems is not asked for.
        asked = {"Accept": "application/json", "Accept-Encoding": "identity"}
        return {FORWARDED_HEADER: proof, **asked}


def origin_of(url: str) -> str:
    """Return a worker's address as proofs name it, however it is written."""
    return str(URL(url).origin())


class WorkerClient(Service):
    """Asks any worker, by its address."""

    def __init__(self, asking: Asking) -> None:
        super().__init__()
        self._asking = asking
        self._workers: dict[str, _Worker] = {}
        #: From then on nobody is asked.
        self.is_closed = False

    async def on_stop(self) -> None:
        """Close what is kept."""
        self.is_closed = True
        for worker in self._workers.values():
            worker.close()

    async def get(self, url: str, path: str, seconds: float) -> tuple[int, bytes]:
        """Return the status and the body of a worker's answer.

        Raises `OSError` if none comes in time, `NoAnswerError` if what comes is none, and
        `AnswerTooLongError` if it is longer than any that a worker gives.
        """
        worker = self._workers.get(url)
        if worker is None:
            worker = self._workers[url] = _Worker(url, self._asking)
        try:
            async with asyncio.timeout(seconds), worker.room:
                return await worker.ask(path)
        except OSError:
            # Workers come and go, under other addresses.
            if worker.is_unused:
                self._workers.pop(url, None)
            raise


class _Worker:
    """A worker, and the connections to it."""

    def __init__(self, url: str, asking: Asking) -> None:
        self._asking = asking
        self._origin = origin_of(url)
        self._address = urlsplit(url)
        self.room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._kept: list[_Connection] = []
        self._at_work = 0

    @property
    def is_unused(self) -> bool:
        """Whether there is no connection."""
        return not (self._kept or self._at_work)

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._kept:
            self._kept.pop().close()

    async def ask(self, path: str) -> tuple[int, bytes]:
        headers = {"Host": self._address.netloc, **self._asking.headers(self._origin, path)}
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        request = f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()
        while self._kept:
            connection = self._kept.pop()
            if connection.is_fresh:
                try:
                    return await self._ask_on(connection, request)
                except _UnheardError:
                    continue  # the worker has ended it, as it seems before it read the question
            connection.close()
        return await self._ask_on(await self._connect(), request)

    async def _ask_on(self, connection: "_Connection", request: bytes) -> tuple[int, bytes]:
        self._at_work += 1
        try:
            return await connection.ask(request)
        finally:
            self._at_work -= 1
            if connection.is_free:
                self._kept.append(connection)
            else:
                connection.close()

    async def _connect(self) -> "_Connection":
        is_tls = self._address.scheme == "https"
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection,
                self._address.hostname or "",
                self._address.port or (443 if is_tls else 80),
                ssl=self._asking.tls if is_tls else None,
            )
        return connection


class _Connection(asyncio.Protocol):
    """One connection: a question, its answer, and the next question."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._is_heard = False
        self._free_since = 0.0
        self.is_free = False

    @property
    def is_fresh(self) -> bool:
        """Whether a question may be asked: it is open, and free since not long ago."""
        is_open = self._transport is not None and not self._transport.is_closing()
        return is_open and self.is_free and self._loop.time() - self._free_since < KEEP_SECONDS

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Return what will hold the answer to a question."""
        self._answer = self._loop.create_future()
        self._body, self._body_bytes = [], 0
        self._is_heard = self.is_free = False
        if self._transport is None or self._transport.is_closing():
            self._fail(_UnheardError())
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """End the connection, whatever it is at."""
        self.is_free = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # -- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_free = False
        self._transport = None
        # They refer to each other.
        self._parser = None
        self._fail(ConnectionResetError() if self._is_heard else _UnheardError())

    def data_received(self, data: bytes) -> None:
        self._is_heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(NoAnswerError())
            self.close()

    # -- called by the parser

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # nobody has asked for a second one

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > MAX_ANSWER_BYTES:
            self._fail(AnswerTooLongError())
            self.close()

    def on_message_complete(self) -> None:
        if self._answer is None or self._answer.done():
            return
        self.is_free = self._parser.should_keep_alive()
        self._free_since = self._loop.time()
        self._answer.set_result((self._parser.get_status_code(), b"".join(self._body)))
