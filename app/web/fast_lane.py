"""The fast lane: plain registrations and lookups without aiohttp's machinery.

A request that is as plain as programs send it, ``POST /users`` or ``POST /trpc/registerUser`` with
a valid registration, ``GET /users/{id}`` with an id that needs no escapes, and no header that asks
for more, is answered here, at half the cost or less. Whatever is not as plain in any way (another
path or header, an invalid body, two requests at once) goes to aiohttp byte by byte as it came, and
so does all that follows on its connection: it is answered as if this module did not exist. Tests
compare the two; docs/decisions/fast-lane.md.
"""

import asyncio
import math
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache, partial
from itertools import islice, repeat
from typing import Any, cast
from urllib.parse import unquote

import httptools
import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from pydantic import ValidationError

from app.access.scopes import Scope
from app.domain.errors import RegistryError
from app.domain.positions import Position
from app.domain.records import User, is_email, read_registration
from app.ingest.accumulator import Offsets
from app.ingest.standstills import LOOK_SECONDS, LOOKS_TO_CATCH_UP
from app.query.partition_query import Found
from app.query.worker_client import FORWARDED_HEADER
from app.telemetry.metrics import RESPONSES
from app.web import trpc
from app.web.api import lookups
from app.web.auth.access import ACCESS
from app.web.http import problems
from app.web.http.bodies import SMALL_BYTES
from app.web.http.clients import client_with
from app.web.http.conditions import etag
from app.web.http.connections import Connections
from app.web.http.hosts import HOSTS, local_of
from app.web.http.internal import is_internal_at
from app.web.http.problems import ProblemError, from_error
from app.web.http.rates import standing
from app.web.http.received import in_origin_form
from app.web.http.tls_handshakes import Greeted, Greeting, address_of
from app.web.http.urls import registration_url
from app.web.outcomes import NOBODY_UNDER_ID, NOBODY_WITH_EMAIL
from app.web.services import READ_AT, SERVICES, Services, Writes
from app.web.trpc import plain_batches

#: A plain request has no more bytes, headers included: so many that its body needs no room.
MAX_REQUEST_BYTES = SMALL_BYTES
#: None of its headers has more: none is too long for aiohttp.
MAX_HEADER_BYTES = 4 * 1024

#: Hosts that need no closer look: `app.web.http.received` has the rule.
_HOST = re.compile(
    rb"[A-Za-z0-9.-]+(?::(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}))?"
)

#: Whom clients look up: by an id that stands in the path as it is, and is nothing that they
#: resolve away, or by an address.
_ASKED = re.compile(
    rb"/users/(?P<id>[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127})"
    rb"|/users\?email=(?P<email>(?:[A-Za-z0-9._~@-]|%40){1,254})"
)
#: Whom other workers look up, as `app.query.lookups` asks them.
_FORWARDED = re.compile(
    rb"/users\?id=(?P<id>(?:[A-Za-z0-9._~-]|%[0-9A-F]{2}){1,512})"
    rb"|/email-holders/(?P<key>(?:[A-Za-z0-9]|%2[BF]|%3D){1,128})\?caught_up=0"
)

_FORWARDED_HEADER = FORWARDED_HEADER.lower().encode()

#: Headers of plain requests, in lower case: what they say changes nothing about the answer.
_PLAIN = frozenset(
    {
        b"accept-encoding",
        b"accept-language",
        b"authorization",
        b"content-length",
        b"host",
        b"sec-fetch-mode",
        b"user-agent",
        _FORWARDED_HEADER,
    }
)
#: Headers that change nothing if they say one of these.
_PLAIN_IF = {
    b"accept": (b"*/*", b"application/json"),
    b"connection": (b"keep-alive", b"Keep-Alive"),
    b"content-type": (b"application/json",),
}


#: What goes wrong with a connection because of what its client sends.
_OF_CLIENTS = (HttpProcessingError, web.RequestPayloadError, ConnectionError)


class Runner(web.AppRunner):
    """Runs an application with the fast lane before it; with TLS, its sites need none."""

    def __init__(
        self, app: web.Application, *, tls: ssl.SSLContext | None = None, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._tls = tls

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        server = _Server(self.app, made.request_handler, made.request_factory, **made._kwargs)
        server.tls = self._tls
        return server


class _Server(web.Server):
    def __init__(self, app: web.Application, handler: Any, factory: Any, **options: Any) -> None:
        given = app[SERVICES]
        answer = partial(_answer, handler, given)
        super().__init__(answer, request_factory=partial(_with_time, factory), **options)
        self._app = app
        self._options = options
        self._settings = given.settings
        self.held = Connections.of_clients(self._settings)
        self.held_internally = Connections.of_workers(self._settings)
        self.tls: ssl.SSLContext | None = None
        self._clock = given.standstills.look

    def __call__(self) -> RequestHandler:
        batcher = FastLane(self._app, self, loop=self._loop, **self._options)
        if self.tls is None:
            return batcher
        greeting = Greeting(cast(Greeted, batcher), self.tls, self.held_at, self._clock)
        return cast(RequestHandler, greeting)

    def is_internal(self, transport: asyncio.BaseTransport) -> bool:
        """Return whether a connection came to the internal address."""
        return is_internal_at(transport.get_extra_info("sockname"), self._settings.internal_port)

    def held_at(self, transport: asyncio.BaseTransport) -> Connections:
        """Return the connections of which one is."""
        return self.held_internally if self.is_internal(transport) else self.held

    async def shutdown(self, timeout: float | None = None) -> None:
        """End what aiohttp does not know of, then as aiohttp does."""
        for each in (*self.held.every(), *self.held_internally.every()):
            if isinstance(each, Greeting):
                each.make_room()
        await super().shutdown(timeout)


async def _answer(
    handler: problems.Handler, given: Services, request: web.Request
) -> web.StreamResponse:
    """Answer a request; what aiohttp refuses before any middleware (Expect) is a problem, too."""
    try:
        answer = await handler(request)
    except web.HTTPError as error:
        answer = problems.as_json(from_error(error))
    if answer.headers.get("Connection") == "close" or given.is_stopping():
        answer.force_close()
    return answer


def _with_time(
    factory: Callable[..., web.Request],
    message: Any,
    payload: Any,
    protocol: "FastLane",
    *more: Any,
) -> web.Request:
    """Return a request that knows when it was read."""
    request = factory(in_origin_form(message), payload, protocol, *more)
    request[READ_AT] = protocol.next_read_at()
    return request


class FastLane(RequestHandler):
    """One connection."""

    def __init__(self, app: web.Application, manager: _Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = manager
        self._held = manager.held
        #: Whether it came to the address where other workers ask.
        self._is_internal = False
        self.is_refused = False
        self._client = ""
        #: When its client last sent something, or took something of an answer.
        self._heard_at = 0.0
        self._given = app[SERVICES]
        #: The same for its client, or the key that came last; whether that has rates to be told of.
        self._given_here, self._has_rate = self._given, False
        self._access = app.get(ACCESS)
        self._hosts = app.get(HOSTS)
        #: The address of this machine that the client has reached, and the host that it asks.
        self._local = ""
        self._host: bytes | None = None
        #: Until something that is not plain comes: then aiohttp has the connection.
        self._is_ours = True
        #: Once something has come that is no HTTP.
        self._is_broken = False
        self._request = _PlainRequest()
        #: What the request that is being answered here waits for.
        self._under_way: asyncio.Future[Any] | None = None
        self._later: list[bytes] = []
        self._later_bytes = 0
        #: When the first bytes were read of the request that is answered here, of what waits behind
        #: it, and of each request that waits in aiohttp.
        self._read_at = self._later_read_at = 0.0
        self._read_by_aiohttp: deque[tuple[float, float]] = deque()
        #: Since when this connection is not read, or was not shortly before; and until when.
        self._paused_at = self._resumed_at = math.inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of who the client is, unless there are too many already."""
        self._client = address_of(transport)
        self._held = self._server.held_at(transport)
        self._is_internal = self._held is self._server.held_internally
        self._heard_at = self._given.standstills.look()
        if self.is_refused or not self._held.admit(self, self._client, self._heard_at):
            self._held.refuse(cast(asyncio.Transport, transport))
            return
        super().connection_made(transport)
        _cut_off_if_nothing_is_taken(transport, self._given.settings.slow_client_seconds)
        self._local = local_of(transport.get_extra_info("sockname"))
        self._give(self._given.for_client(self._client))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Make room for others, and leave nothing that only the collector of garbage would find."""
        self._held.forget(self, self._client)
        self._request.end()
        request, handler = self._current_request, self._task_handler
        super().connection_lost(exc)
        if request is not None and handler is not None:
            # What ends the handler is kept by the request, and its frames keep what was read.
            error = request.content.exception()
            handler.add_done_callback(lambda _: _forget_frames(error))

    @property
    def waits_since(self) -> float | None:
        """When its client was last heard of, by whom the next step is; None if that is ours."""
        request = self._current_request
        if self._under_way is not None or self._messages:
            is_ours = not self.writing_paused
        else:
            is_ours = request is not None and request.content.is_eof() and not self.writing_paused
        return None if is_ours else self._heard_at

    def make_room(self) -> None:
        """End at once."""
        self._held.forget(self, self._client)
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what comes: a plain request is answered here, all else by aiohttp."""
        at = self._heard_at = self._given.standstills.look()
        if self._is_broken:
            return
        if not self._is_ours:
            self._leave(data, at, at)
        elif self._under_way is not None or self.writing_paused:
            # Who does not wait for an answer is not answered before it, nor who takes none.
            self._keep(data, at)
        else:
            self._take(data, at)

    def _keep(self, data: bytes, at: float) -> None:
        """Keep what comes too early; read no more once it is as much as a request may have."""
        if not self._later:
            self._later_read_at = at
        self._later.append(data)
        self._later_bytes += len(data)
        if self._later_bytes > MAX_REQUEST_BYTES:
            self._pause_transport_reading()

    def _go_on(self) -> None:
        """Take what was kept, if the answer before is written and the client takes answers."""
        if not self._later or self._under_way is not None or self.writing_paused:
            return
        later, self._later = b"".join(self._later), []
        was_full, self._later_bytes = self._later_bytes > MAX_REQUEST_BYTES, 0
        read_at = self._later_read_at
        self._take(later, self._given.standstills.time_of(read_at, read_at))
        # aiohttp may have enough of it by itself.
        if was_full and not (self._later or self._buffer_paused or self._reading_paused):
            self._resume_transport_reading()

    def resume_writing(self) -> None:
        """Go on once the client has taken its answers."""
        super().resume_writing()
        self._heard_at = self._given.standstills.look()
        if self._is_ours:
            self._go_on()

    def _take(self, data: bytes, at: float) -> None:
        request = self._request
        if self._close or self._force_close:
            self._leave(data, at, at)
            return
        if not request.fed:
            self._read_at = at
        request.feed(data)
        if not request.is_plain or (request.is_complete and not self._serve(request)):
            self._is_ours = False
            fed = b"".join(request.fed)
            request.restart()
            self._leave(fed, self._read_at, at)

    def _leave(self, data: bytes, read_at: float, at: float) -> None:
        """Give to aiohttp what was read from one time on, and may be answered from another."""
        # Who has its last answer, or whose connection is read again for long, was not held up.
        is_idle = not self._request_in_progress and not self._messages
        if is_idle or at - self._resumed_at > LOOK_SECONDS * LOOKS_TO_CATCH_UP:
            self._paused_at = self._resumed_at = math.inf
        known = len(self._messages)
        super().data_received(data)
        for message, _ in islice(self._messages, known, None):
            if isinstance(message, _ErrInfo):
                _forget_frames(message.exc)
                # It is answered, and the end: whatever else comes is not even read.
                self._is_broken = True
                self._pause_transport_reading()
        self._end_body()
        # What is read after a pause may have come when that began.
        times = min(read_at, self._paused_at), min(at, self._paused_at)
        self._read_by_aiohttp.extend(repeat(times, len(self._messages) - known))

    def _end_body(self) -> None:
        """Let who reads a body know at once that it is badly framed: no more of it comes."""
        under_way = self._current_request
        is_broken = self._messages and isinstance(self._messages[-1][0], _ErrInfo)
        if is_broken and under_way is not None and not under_way.content.is_eof():
            under_way.content.set_exception(web.RequestPayloadError("badly framed"))
            # Who was woken by the chunk before does not see the exception, and would wait on.
            under_way.content.feed_eof()

    def next_read_at(self) -> float:
        """Return the time of the next request that aiohttp begins to handle."""
        read = self._read_by_aiohttp
        standstills = self._given.standstills
        return standstills.time_of(*read.popleft()) if read else standstills.look()

    def _pause_transport_reading(self) -> None:
        self._paused_at = min(self._paused_at, self._given.standstills.look())
        self._resumed_at = math.inf
        super()._pause_transport_reading()

    def _resume_transport_reading(self) -> None:
        self._resumed_at = self._given.standstills.look()
        super()._resume_transport_reading()

    def _serve(self, request: "_PlainRequest") -> bool:
        """Begin to write what a plain request wants; return whether that was possible."""
        if self._is_internal and request.forwarded is None:
            return False  # aiohttp says that clients are not served at the internal address
        given = self._given_to(request)
        if given is None:
            return False
        if request.is_get:
            return self._look_up(request, given)
        if request.url in _ANSWERS:
            return self._write(request, given)
        return plain_batches.is_batch(request.url) and self._write_batch(request, given)

    def _look_up(self, request: "_PlainRequest", given: Services) -> bool:
        is_forwarded = request.forwarded is not None
        asked = (_FORWARDED if is_forwarded else _ASKED).fullmatch(request.url)
        wanted = _wanted(asked) if asked else None
        if asked is None or wanted is None:
            return False
        try:
            # Without keys, anyone may say that a worker asks: that is no way around a rate.
            is_proven = is_forwarded and self._access is not None
            if not is_proven and (given.reads.are_set or given.key is not None):
                given.admit_reads(1)
            user = given.lookups.find_here(wanted) if asked["id"] else None
        except RegistryError:
            return False
        if user is not None:
            self._answered(_shown_user(user))
            return True
        if asked["id"]:
            finding = _user(given.lookups.find(wanted, forwarded=is_forwarded))
        elif is_forwarded:
            finding = _holder(given.lookups.holder(wanted, caught_up=False, forwarded=True))
        else:
            finding = _user(given.lookups.find_by_email(wanted), NOBODY_WITH_EMAIL)
        self._under_way = asyncio.ensure_future(_told(finding))
        self._under_way.add_done_callback(self._looked_up)
        return True

    def _looked_up(self, told: asyncio.Future[bytes]) -> None:
        self._under_way = None
        if not told.cancelled():
            self._answered(told.result())

    def _write(self, request: "_PlainRequest", given: Services) -> bool:
        try:
            registration = read_registration(b"".join(request.body))
            partition, offsets = given.begin(registration["id"], registration, self._read_at)
        except (ValidationError, RegistryError):
            return False
        self._under_way = offsets
        offsets.add_done_callback(partial(self._acknowledged, registration["id"], partition))
        return True

    def _write_batch(self, request: "_PlainRequest", given: Services) -> bool:
        body, max_calls = b"".join(request.body), given.settings.max_batch_calls
        registrations = plain_batches.registrations_in(request.url, body, max_calls)
        if registrations is None:
            return False
        try:
            writes = given.begin_all(registrations, read_at=self._read_at)
        except RegistryError:
            return False
        user_ids = [registration["id"] for registration in registrations]
        self._under_way = writes.ended()
        self._under_way.add_done_callback(partial(self._batch_ended, user_ids, writes))
        return True

    def _batch_ended(
        self, user_ids: Sequence[str], writes: Writes, ended: asyncio.Future[Any]
    ) -> None:
        self._under_way = None
        if ended.cancelled():
            return
        told = writes.told()
        if writes.failures():
            self._answered(_as_bytes(plain_batches.told(user_ids, told)))
        else:
            _SHOWN.inc()
            body = plain_batches.registered(user_ids, cast("Sequence[str]", told))
            self._answered(_written(b"200 OK", _TRPC_HEADERS, body))

    def _given_to(self, request: "_PlainRequest") -> Services | None:
        """Return the services for who sent a request; None if its host or its key is in doubt."""
        if request.host != self._host and not self._is_served(request.host):
            return None
        access = self._access
        if access is None:
            return self._given_here
        if request.forwarded is not None:
            key, proof = None, request.forwarded.decode(errors="surrogateescape")
            if not access.proofs.holds(access.here, request.url.decode("latin-1"), proof):
                return None
        else:
            key = access.key_of(request.authorization.decode(errors="surrogateescape"))
            if key is None or not key.allows(Scope.LOOKUP if request.is_get else Scope.WRITE):
                return None
        if key is not self._given_here.key:
            self._give(self._given.for_client(client_with(key) if key else self._client, key))
        return self._given_here

    def _give(self, given: Services) -> None:
        self._given_here, self._has_rate = given, given.has_rate

    def _is_served(self, host: bytes) -> bool:
        """Return whether a host is served, and remember it: a client asks one and the same."""
        if self._hosts is not None and not self._hosts.serves(host.decode("latin-1"), self._local):
            return False
        self._host = host
        return True

    def _acknowledged(self, user_id: str, partition: int, offsets: Offsets) -> None:
        self._under_way = None
        accepted, refused = _ANSWERS[self._request.url]
        error = offsets.exception()
        if error is None:
            _ACCEPTED[self._request.url].inc()
            self._answered(accepted(user_id, Position(partition, offsets.result()[0])))
        else:
            self._answered(_as_bytes(refused(from_error(error))))

    def _answered(self, answer: bytes) -> None:
        if self.transport is None:
            return
        if self._has_rate:
            told = "".join(f"\r\n{name}: {value}" for name, value in standing(self._given_here))
            answer = answer.replace(b"\r\nDate:", told.encode() + b"\r\nDate:", 1)
        if self._given.is_stopping():
            # Its client connects anew, to a worker that goes on: its next request is not lost here.
            self.transport.write(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            self.transport.close()
            return
        self.transport.write(answer)
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        self._request.restart()
        self._go_on()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, without repeating it."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer to this request has begun")
        name = "malformed" if status < 500 else "internal"
        answer = problems.as_json(ProblemError(status, name, "The request cannot be read."))
        answer.force_close()
        if status >= 500:
            self.log_exception("unexpected error in a connection", exc_info=exc)
        return answer

    def log_exception(self, *args: Any, **details: Any) -> None:
        """Log what is wrong here; what clients send is not worth a line each."""
        if not isinstance(details.get("exc_info"), _OF_CLIENTS):
            super().log_exception(*args, **details)

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Answer what is under way, then end as aiohttp does."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way], timeout=timeout)
            await asyncio.sleep(0)  # its answer is written by a callback
        await super().shutdown(timeout)


def _cut_off_if_nothing_is_taken(transport: asyncio.BaseTransport, seconds: float) -> None:
    """Let the kernel end a connection whose client takes nothing of an answer for so long.

    tcp(7), TCP_USER_TIMEOUT: it counts also while the client's window is closed. Elsewhere than on
    Linux the kernel's own patience holds.
    """
    held = transport.get_extra_info("socket")
    if held is not None and held.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def _forget_frames(error: BaseException | None) -> None:
    """Free what was at work where an error was raised: its frames hold it, and it holds them."""
    if error is not None:
        error.__traceback__ = None


class _PlainRequest:
    """A request as it comes in; `is_plain` as long as nothing of it says otherwise.

    One serves a whole connection: it and its parser refer to each other, so a pair for each request
    would be garbage that only the collector finds, for a tenth of the worker's time.
    """

    def __init__(self) -> None:
        self.restart()
        self._parser: Any = httptools.HttpRequestParser(self)

    def restart(self) -> None:
        """Be the next request."""
        self.fed: list[bytes] = []
        self.body: list[bytes] = []
        self.url = b""
        self.authorization = b""
        #: What shows that another worker asks.
        self.forwarded: bytes | None = None
        self.host = b""
        self.is_plain = True
        self.is_complete = False
        self.is_get = False
        self._size = 0
        self._names: set[bytes] = set()

    def end(self) -> None:
        """Be no request any more: the parser, which refers to this, would keep it."""
        self.restart()
        self._parser = None

    def feed(self, data: bytes) -> None:
        """Take more bytes of it."""
        self.fed.append(data)
        self._size += len(data)
        if self._size > MAX_REQUEST_BYTES:
            self.is_plain = False
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.is_plain = False

    # -- called by the parser

    def on_message_begin(self) -> None:
        self.is_plain = self.is_plain and not self.is_complete

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"authorization":
            self.authorization = value
        elif name == b"host":
            self.host = value
        elif name == _FORWARDED_HEADER:
            self.forwarded = value
        if len(value) > MAX_HEADER_BYTES or name in self._names:
            self.is_plain = False
        if not (name in _PLAIN or value in _PLAIN_IF.get(name, ())):
            self.is_plain = False
        if name == b"host" and not _HOST.fullmatch(value):
            self.is_plain = False
        self._names.add(name)

    def on_headers_complete(self) -> None:
        method = self._parser.get_method()
        self.is_get = method == b"GET"
        has_body = b"content-length" in self._names
        fits = not has_body if self.is_get else method == b"POST" and b"content-type" in self._names
        has_host = b"host" in self._names
        is_1_1 = self._parser.get_http_version() == "1.1"
        fits = fits and (self.is_get or self.forwarded is None)
        self.is_plain = self.is_plain and fits and has_host and is_1_1

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


def _accepted_over_rest(user_id: str, position: Position) -> bytes:
    body = orjson.dumps({"status": "accepted", "id": user_id, "position": position.token()})
    location = registration_url(position).encode()
    return _written(b"202 Accepted", _REST_HEADERS % location, body)


def _accepted_over_trpc(user_id: str, position: Position) -> bytes:
    body = plain_batches.REGISTERED % (orjson.dumps(user_id), position.token().encode())
    return _written(b"200 OK", _TRPC_HEADERS, body)


_REST_HEADERS = (
    b"Vary: Accept\r\nCache-Control: no-store\r\nLocation: %b\r\nContent-Type: application/json"
)
_JSON_HEADERS = b"Vary: Accept\r\nCache-Control: no-store\r\nContent-Type: application/json"
_USER_HEADERS = (
    b"Vary: Accept\r\nCache-Control: no-store\r\nETag: %b\r\nContent-Type: application/json"
)
_TRPC_HEADERS = b"Content-Type: application/json\r\nVary: trpc-accept, accept"


def _written(status: bytes, headers: bytes, body: bytes) -> bytes:
    """Return an answer as it goes over the wire."""
    return b"HTTP/1.1 %b\r\n%b\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        headers,
        _date(int(time.time())),
        len(body),
        body,
    )


def _wanted(asked: re.Match[bytes]) -> str | None:
    """Return the id, the address or the key that a lookup is about; None if it may be none."""
    try:
        wanted = unquote(asked[asked.lastgroup or 0].decode(), errors="strict")
    except UnicodeDecodeError:
        return None
    return wanted if asked.lastgroup != "email" or is_email(wanted) else None


async def _told(finding: Awaitable[bytes]) -> bytes:
    """Return the answer to a lookup that takes longer."""
    try:
        return await finding
    except Exception as error:
        return _as_bytes(problems.as_json(from_error(error)))


async def _user(finding: Awaitable[User | None], nobody: str = NOBODY_UNDER_ID) -> bytes:
    """Return the answer that shows a user."""
    user = await finding
    if user is None or user.stale_seconds:
        return _as_bytes(lookups.shown(user, nobody))
    return _shown_user(user)


async def _holder(finding: Awaitable[Found[str | None]]) -> bytes:
    """Return the answer that tells another worker who holds an address."""
    return _shown(_JSON_HEADERS, lookups.encode_holder(await finding))


def _shown_user(user: User) -> bytes:
    """Return the answer that shows a user of whom everything is known here."""
    return _shown(_USER_HEADERS % etag(user).encode(), user.encode())


def _shown(headers: bytes, body: bytes) -> bytes:
    """Return the answer that shows what was found, and count it."""
    _SHOWN.inc()
    return _written(b"200 OK", headers, body)


def _as_bytes(answer: web.Response) -> bytes:
    """Return aiohttp's answer as it goes over the wire, and count it."""
    RESPONSES.labels(str(answer.status)).inc()
    headers = "\r\n".join(f"{name}: {value}" for name, value in answer.headers.items())
    status = f"{answer.status} {answer.reason}"
    return _written(status.encode(), headers.encode(), cast(bytes, answer.body))


#: By address: how a registration is answered that is durable, and one that is not.
_ANSWERS: Mapping[
    bytes, tuple[Callable[[str, Position], bytes], Callable[[ProblemError], web.Response]]
] = {
    b"/users": (_accepted_over_rest, problems.as_json),
    b"/trpc/registerUser": (_accepted_over_trpc, partial(trpc.refused, path="registerUser")),
}

_SHOWN = RESPONSES.labels("200")
#: Counts their answers.
_ACCEPTED = {b"/users": RESPONSES.labels("202"), b"/trpc/registerUser": RESPONSES.labels("200")}
