"""One keep-alive connection: one request at a time."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, cast

import httptools

from app.config.target import Target
from app.system import retries
from tools.load.tally import Tally


@dataclass(slots=True)
class Request:
    """A request, the numbers of its registrations, when it is due, and its tally."""

    data: bytes
    numbers: Sequence[int]
    due: float
    tally: Tally
    sent_at: float = 0.0
    retries: int = 0
    #: Whether it was sent again because its connection ended before it could be answered.
    is_anew: bool = False


@dataclass(slots=True)
class Answer:
    """An answer: its status, its body, and all bytes as they came."""

    status: int
    body: bytes
    raw: Sequence[bytes]

    def retry_after(self) -> str | None:
        """Return the value of the header ``Retry-After``; None if there is none."""
        # Only refusals are searched. Parsing headers would cost time in every answer.
        head = b"".join(self.raw).partition(b"\r\n\r\n")[0]
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"retry-after":
                return value.strip().decode("latin-1")
        return None


def retry_seconds(retry_after: str | None) -> float:
    """Return how long to wait before a retry."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdecimal()):
        return retries.LOAD.first_seconds
    return min(float(retry_after), retries.LOAD.longest_seconds)


class Drives(Protocol):
    """Sends requests over connections, and gets the answers."""

    def answered(self, connection: "Connection", request: Request, answer: Answer) -> None:
        """Handle an answer. The connection is free, or closed."""

    def failed(self, request: Request, kind: str) -> None:
        """Handle a request without an answer. Its connection is closed."""

    def send_anew(self, request: Request) -> None:
        """Send a request again: its connection had served others, and ended as it was sent."""


class Connection(asyncio.Protocol):
    """One connection. A closed one is replaced."""

    def __init__(self, driver: Drives) -> None:
        self._driver = driver
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._request: Request | None = None
        self._raw: list[bytes] = []
        self._body: list[bytes] = []
        self._is_complete = False
        self._is_kept = True
        self._why_closed = ""
        self._has_answered = False

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # It is one, though uvloop's does not say so.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: Request) -> None:
        """Send a request; the connection must be open and free."""
        self._request = request
        request.sent_at = perf_counter()
        self._transport.write(request.data)

    def data_received(self, data: bytes) -> None:
        """Take bytes of an answer."""
        self._raw.append(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close("malformed-answer")
        if self._is_complete:
            self._complete()

    def _complete(self) -> None:
        request, self._request = self._request, None
        answer = Answer(self._parser.get_status_code(), b"".join(self._body), self._raw)
        self._raw, self._body, self._is_complete = [], [], False
        self._has_answered = True
        if request is None or not self._is_kept:
            self.close()
        if request is not None:
            self._driver.answered(self, request, answer)

    def end_if_overdue(self, sent_before: float) -> None:
        """Close the connection if its request was sent too long ago."""
        if self._request is not None and self._request.sent_at < sent_before:
            self.close("time-out")

    def close(self, why: str = "") -> None:
        """Close the connection; a request under way fails for this reason."""
        self._why_closed = why
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the request that gets no answer.

        A server may close a connection that is idle, as a client sends: RFC 9112, section 9.3.1.
        So clients send again, once, what is the same when it comes twice, as a registration is.
        """
        request, self._request = self._request, None
        if request is None:
            return
        was_idle = self._has_answered and not self._raw and not self._why_closed
        if was_idle and not request.is_anew:
            self._driver.send_anew(request)
        else:
            self._driver.failed(request, self._why_closed or kind_of(exc))

    # -- called by the parser

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Take notice of the end of an answer."""
        self._is_complete = True
        self._is_kept = self._parser.should_keep_alive()


async def connect(
    driver: Drives, target: Target, tls: ssl.SSLContext | None, seconds: float
) -> Connection:
    """Return a new connection; raise `OSError` (`TimeoutError` is one) if that fails."""
    async with asyncio.timeout(seconds):
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(driver), target.host, target.port, ssl=tls
        )
    return connection


def kind_of(error: Exception | None) -> str:
    """Return the word for what went wrong with a connection."""
    for known, word in _KINDS.items():
        if isinstance(error, known):
            return word
    return "unreachable"


#: The first matching type counts.
_KINDS: dict[type[object], str] = {
    type(None): "connection-closed",
    ConnectionRefusedError: "connection-refused",
    ConnectionError: "connection-reset",
    TimeoutError: "time-out",
    ssl.SSLError: "tls",
}
