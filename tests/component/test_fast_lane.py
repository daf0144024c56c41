"""The fast lane answers plain registrations as aiohttp does, and leaves all else to it."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pytest
from aiohttp import web

from app.access.proofs import Proofs
from app.config.settings import Settings
from app.domain.errors import (
    BrokerUnavailableError,
    OutcomeOpenError,
    OutcomeUnknownError,
    OverloadedError,
    StaleRequestError,
)
from app.ingest.accumulator import Offsets
from app.ingest.rate_limits import Limits
from app.ingest.standstills import Standstills
from app.kafka import topics
from app.kafka.fast_records import ToWrite
from app.query.worker_client import origin_of
from app.web.fast_lane import FastLane, Runner
from app.web.routes import application_options, install, runner_options
from app.web.services import Services
from tests.component.access import SECRET, add_key
from tests.component.fakes import FakeLookups, FakeProducer

ADA = b'{"id":"ada","name":"Ada King","email":"ada@example.com"}'


def request(body: bytes = ADA, path: str = "/users", method: str = "POST", **headers: str) -> bytes:
    """Return a request as write clients send it."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"Host": "localhost", "Content-Type": "application/json", **more}
    lines = [f"{name}: {value}" for name, value in given.items() if value]
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, f"Content-Length: {len(body)}"])
    return head.encode() + b"\r\n\r\n" + body


def batch(*rows: bytes, **headers: str) -> bytes:
    """Return a batch of registrations over tRPC."""
    body = b",".join(b'"%d":%b' % (index, row) for index, row in enumerate(rows))
    path = f"/trpc/{','.join(['registerUser'] * len(rows))}?batch=1"
    return request(b"{%b}" % body, path, **headers)


def get(path: str, **headers: str) -> bytes:
    """Return a GET as programs send it."""
    given = {"Host": "localhost", **{name.replace("_", "-"): v for name, v in headers.items()}}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {v}" for name, v in given.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def lookup(user_id: str, **headers: str) -> bytes:
    """Return a lookup by id."""
    return get(f"/users/{user_id}", **headers)


@dataclass
class Place:
    """A server, what it sends to, whom it finds, and how many connections it left to aiohttp."""

    port: int
    producer: FakeProducer
    lookups: FakeLookups
    lanes: list[FastLane]

    @property
    def is_fast(self) -> bool:
        """Whether the last connection is served by the fast lane still."""
        return bool(self.lanes) and self.lanes[-1]._is_ours


@asynccontextmanager
async def serving(
    runner_class: Callable[..., web.AppRunner],
    monkeypatch: pytest.MonkeyPatch,
    standstills: Standstills | None = None,
    clock: Callable[[], float] = monotonic,
    **asked: Any,
) -> AsyncIterator[Place]:
    settings = Settings.model_validate(asked)
    app = web.Application(**application_options(settings))
    producer, lookups = FakeProducer(), FakeLookups(elsewhere={"elsewhere", "copied"})
    lookups.add("here-1.~_")
    lookups.add("elsewhere")
    lookups.users["copied"] = lookups.add("copied").stale(1.5)
    lookups.holders["aB1+/="] = "here-1.~_"
    written = topics.declare(settings).user_registrations
    given = standstills or Standstills()
    writing = settings.max_writes_per_second, settings.client_writes_per_second
    reading = settings.max_reads_per_second, settings.client_reads_per_second
    limits, reads = Limits(*writing, clock), Limits(*reading, clock, are_reads=True)
    services = Services(
        settings, written, producer, lookups, limits=limits, reads=reads, standstills=given
    )
    install(app, services)
    lanes: list[FastLane] = []
    made = FastLane.connection_made

    def note(lane: FastLane, transport: asyncio.BaseTransport) -> None:
        lanes.append(lane)
        made(lane, transport)

    monkeypatch.setattr(FastLane, "connection_made", note)
    runner = runner_class(app, **runner_options())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Place(runner.addresses[0][1], producer, lookups, lanes)
    finally:
        producer.give_up()
        await runner.cleanup()


@pytest.fixture
async def fast(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    """Serve with the fast lane."""
    async with serving(Runner, monkeypatch) as place:
        yield place


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    """Serve without it."""
    async with serving(web.AppRunner, monkeypatch) as place:
        yield place


@asynccontextmanager
async def connected(
    place: Place,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, str], bytes]:
    """Return status line, headers and body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    length = int(headers.get("Content-Length", 0))
    return first.encode(), headers, await reader.readexactly(length)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.001)


async def answer_to(place: Place, sent: bytes) -> tuple[bytes, dict[str, str], bytes]:
    async with connected(place) as (reader, writer):
        writer.write(sent)
        status, headers, body = await answer(reader)
    # A moment, and aiohttp's name of itself, which the fast lane does not tell.
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers.pop("Date"))
    headers.pop("Server", None)
    return status, headers, body


PLAIN = {
    "REST": request(),
    "tRPC": request(path="/trpc/registerUser"),
    "headers of Node": request(
        Connection="keep-alive",
        Accept="*/*",
        Accept_Language="*",
        Sec_Fetch_Mode="cors",
        User_Agent="node",
        Accept_Encoding="gzip, deflate",
    ),
    "headers in lower case": request().replace(b"Content-Type", b"content-type"),
    "a port of four digits": request(Host="localhost:6066"),
    "a port of five digits": request(Host="127.0.0.1:54321"),
    "a high port": request(Host="127.0.0.1:65499"),
    "a batch": batch(ADA, ADA.replace(b"ada", b"eve"), ADA),
    "a batch of one": batch(ADA),
    "a batch of many": batch(*[ADA.replace(b"ada", b"ada-%d" % number) for number in range(100)]),
    "a batch as odd as may be": batch(
        b'{"x": {}, "email": "ada@example.com", "name": "\\u00e4", "id": "a/\\"b"}',
        b'{"type": "registration", "id": "\\\\", "name": "Z\xc3\xb6e", "email": " \xc3\xa4@b.c "}',
    ),
    "more members, other order": request(
        b'{"x": {}, "email": "ada@example.com", "name": "\\u00e4", "id": "a/\\"b"}'
    ),
}

LOOKUPS = {
    "a user who is here": lookup("here-1.~_"),
    "a user who is elsewhere": lookup("elsewhere"),
    "a user whom a copy has": lookup("copied"),
    "nobody": lookup("nobody"),
    "headers of Node": lookup(
        "here-1.~_",
        Connection="keep-alive",
        Accept="*/*",
        Accept_Language="*",
        Sec_Fetch_Mode="cors",
        User_Agent="node",
        Accept_Encoding="gzip, deflate",
    ),
    "a type of nothing": lookup("here-1.~_", Content_Type="application/json"),
    "by an address": get("/users?email=ada%40example.com"),
    "by an address as it is": get("/users?email=ada@example.com"),
    "by an address that nobody has": get("/users?email=nobody@example.com"),
}

FORWARDED_LOOKUPS = {
    path: get(path, Accept="application/json", Registry_Forwarded="1")
    for path in (
        "/users?id=here-1.~_",
        "/users?id=elsewhere",
        "/users?id=copied",
        "/users?id=a%2F%C3%A4",
        "/users?id=.",
        "/users?id=nobody",
        "/email-holders/aB1%2B%2F%3D?caught_up=0",
        "/email-holders/nobody?caught_up=0",
    )
}

NOT_PLAIN_LOOKUPS = {
    "a page is wanted": lookup("here-1.~_", Accept="text/html,*/*;q=0.8"),
    "an escape": lookup("here%2D1.~_"),
    "a dot": lookup("."),
    "a path": lookup("here/1"),
    "a query": lookup("here-1.~_?x=1"),
    "after a write": lookup("here-1.~_", Registry_After="x"),
    "by a worker": lookup("here-1.~_", Registry_Forwarded="1"),
    "by a worker after a write": get("/users?id=ada&after=x", Registry_Forwarded="1"),
    "by a worker, all that is committed": get(
        "/email-holders/x?caught_up=1", Registry_Forwarded="1"
    ),
    "by a worker, a part of a list": get("/users?prefix=&limit=1", Registry_Forwarded="1"),
    "by a worker, twice": get("/users?id=ada", Registry_Forwarded="1", registry_forwarded="1"),
    "by a worker, not UTF-8": get("/users?id=%FF", Registry_Forwarded="1"),
    "what only workers ask": get("/email-holders/x?caught_up=0"),
    "by an id in the query": get("/users?id=here-1.~_"),
    "no address": get("/users?email=ada"),
    "another escape": get("/users?email=%61da%40example.com"),
    "two addresses": get("/users?email=a@b.c&email=a@b.c"),
    "a long id": lookup("a" * 129),
    "a body": request(path="/users/nobody", method="GET"),
    "no body": request(path="/users/nobody", method="GET", body=b""),
    "another method": lookup("here-1.~_").replace(b"GET", b"OPTIONS"),
    "HTTP/1.0": lookup("here-1.~_").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "another path": lookup("x").replace(b"/users/x", b"/nothing"),
}

NOT_PLAIN = {
    "another path": request(path="/users/batch", body=b"[%b]" % ADA),
    "another path of tRPC": request(path="/trpc/nope"),
    "a query": request(path="/users?x=1"),
    "a batch with something else": batch(ADA, ADA).replace(b",registerUser", b",hello"),
    "a batch with one that is none": batch(ADA, b'{"id":""}', ADA),
    "a batch in another order": batch(ADA, ADA).replace(b'"0":', b'"2":').replace(b'"1":', b'"0":'),
    "a batch with the same twice": batch(ADA, ADA).replace(b'"1":', b'"0":'),
    "a batch with one too few": batch(ADA, ADA).replace(
        b"/registerUser,", b"/registerUser,registerUser,"
    ),
    "a batch that is an array": request(b"[%b]" % ADA, "/trpc/registerUser?batch=1"),
    "a batch that is no JSON": request(b'{"0":', "/trpc/registerUser?batch=1"),
    "a batch of too many": batch(*[b"1"] * 1_001),
    "a batch by a worker": batch(ADA, Registry_Forwarded="1"),
    "a long batch": batch(*[ADA] * 300),
    "another method": request(path="/users/ada", method="DELETE", body=b""),
    "GET": request(path="/trpc/hello", method="GET", body=b""),
    "no type": request(Content_Type=""),
    "another type": request(Content_Type="text/plain"),
    "a charset": request(Content_Type="application/json; charset=utf-8"),
    "a preference": request(Prefer="respond-async"),
    "an unknown header": request(X_Anything="1"),
    "the connection is to be closed": request(Connection="close"),
    "a page is wanted": request(Accept="text/html"),
    "no JSON": request(b'{"id": '),
    "no registration": request(b'{"id": "", "name": 1}'),
    "no registration over tRPC": request(b'{"id": "", "name": 1}', path="/trpc/registerUser"),
    "an array": request(b"[]"),
    "nothing": request(b""),
    "HTTP/1.0": request().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a long body": request(b'{"padding": "%b", %b' % (b"x" * 20_000, ADA[1:])),
    "chunks": (
        b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ADA), ADA)
    ),
}


#: What aiohttp does not take for a request.
NO_REQUEST = {
    "two types": request(content_type="application/json"),
    "no HTTP": b"hello\r\n\r\n",
    "a length that is none": request().replace(b"Content-Length: ", b"Content-Length: x"),
}


@pytest.mark.parametrize("sent", PLAIN.values(), ids=PLAIN)
async def test_a_plain_registration_is_answered_as_aiohttp_does(
    fast: Place, slow: Place, sent: bytes
) -> None:
    assert await answer_to(fast, sent) == await answer_to(slow, sent)
    assert fast.producer.sent == slow.producer.sent != []
    assert fast.is_fast


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("sent", LOOKUPS.values(), ids=LOOKUPS)
async def test_a_plain_lookup_is_answered_as_aiohttp_does(
    fast: Place, slow: Place, sent: bytes, ready: bool
) -> None:
    fast.lookups.ready = slow.lookups.ready = ready
    assert await answer_to(fast, sent) == await answer_to(slow, sent)
    assert fast.is_fast


@pytest.mark.parametrize("sent", FORWARDED_LOOKUPS.values(), ids=FORWARDED_LOOKUPS)
async def test_another_worker_is_answered_as_aiohttp_does(
    fast: Place, slow: Place, sent: bytes
) -> None:
    assert await answer_to(fast, sent) == await answer_to(slow, sent)
    assert fast.is_fast


async def test_who_only_says_to_be_a_worker_has_the_rate_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def clock() -> float:
        return 1_000.0

    asked: dict[str, Any] = {"client_reads_per_second": 2}
    async with (
        serving(Runner, monkeypatch, clock=clock, **asked) as fast,
        serving(web.AppRunner, monkeypatch, clock=clock, **asked) as slow,
    ):
        sent = FORWARDED_LOOKUPS["/users?id=here-1.~_"]
        told = [(await answer_to(fast, sent), await answer_to(slow, sent)) for _ in range(4)]
        assert all(one == other for one, other in told)
        assert told[-1][0][0] == b"HTTP/1.1 429 Too Many Requests"


@pytest.mark.parametrize("secret", [SECRET, "another" * 8, None])
async def test_another_worker_has_to_prove_itself_where_keys_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secret: str | None
) -> None:
    path, here = "/users?id=here-1.~_", origin_of(Settings().url)
    proof = Proofs(secret.encode()).make(here, path) if secret else "1"
    asked: dict[str, Any] = {"keys_file": tmp_path / "keys.json", "email_secret": SECRET}
    add_key(asked["keys_file"], "read")
    async with (
        serving(Runner, monkeypatch, **asked) as fast,
        serving(web.AppRunner, monkeypatch, **asked) as slow,
    ):
        sent = get(path, Registry_Forwarded=proof)
        told = await answer_to(fast, sent)
        assert told == await answer_to(slow, sent)
        assert told[0].split()[1] == (b"200" if secret == SECRET else b"401")
        assert fast.is_fast == (secret == SECRET)
        # It opens no other address, and nothing to who has a key's connection.
        other = get("/users?id=elsewhere", Registry_Forwarded=proof)
        assert (await answer_to(fast, other))[0].split()[1] == b"401"


@pytest.mark.parametrize("sent", NOT_PLAIN_LOOKUPS.values(), ids=NOT_PLAIN_LOOKUPS)
async def test_lookups_that_ask_for_more_are_left_to_aiohttp(
    fast: Place, slow: Place, sent: bytes
) -> None:
    assert await answer_to(fast, sent) == await answer_to(slow, sent)
    assert not fast.is_fast


async def test_lookups_and_writes_share_a_connection(fast: Place) -> None:
    fast.lookups.held["elsewhere"] = held = asyncio.Event()
    async with connected(fast) as (reader, writer):
        writer.write(lookup("elsewhere"))
        writer.write(request())
        writer.write(lookup("here-1.~_"))
        while not fast.lookups.asked_after:
            await asyncio.sleep(0)
        held.set()
        told = [await answer(reader) for _ in range(3)]
    assert [status for status, _, _ in told] == [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 202 Accepted",
        b"HTTP/1.1 200 OK",
    ]
    assert [b"elsewhere" in told[0][2], b"here-1" in told[2][2]] == [True, True]


@pytest.mark.parametrize("scope", ["read", "write", "admin", None])
async def test_who_may_not_read_is_told_so_by_aiohttp(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scope: str | None
) -> None:
    keys_file = tmp_path / "keys.json"
    key = add_key(keys_file, scope) if scope else "unknown"
    asked: dict[str, Any] = {"keys_file": keys_file, "email_secret": SECRET}
    async with (
        serving(Runner, monkeypatch, **asked) as fast,
        serving(web.AppRunner, monkeypatch, **asked) as slow,
    ):
        sent = lookup("here-1.~_", Authorization=f"Bearer {key}")
        assert await answer_to(fast, sent) == await answer_to(slow, sent)
        assert fast.is_fast == (scope in {"read", "admin"})
        assert (await answer_to(fast, lookup("here-1.~_")))[0] == b"HTTP/1.1 401 Unauthorized"


@pytest.mark.parametrize("sent", NOT_PLAIN.values(), ids=NOT_PLAIN)
async def test_all_else_is_left_to_aiohttp(fast: Place, slow: Place, sent: bytes) -> None:
    assert await answer_to(fast, sent) == await answer_to(slow, sent)
    assert fast.producer.sent == slow.producer.sent
    assert not fast.is_fast


@pytest.mark.parametrize("sent", NO_REQUEST.values(), ids=NO_REQUEST)
async def test_what_is_no_request_is_a_problem_and_not_repeated(
    fast: Place, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    status, headers, body = await answer_to(fast, sent)
    assert status.endswith(b"400 Bad Request")
    assert headers["Content-Type"] == "application/problem+json"
    assert b"cannot be read" in body
    assert not caplog.records


@pytest.mark.parametrize("sent", ["REST", "tRPC", "a batch"])
@pytest.mark.parametrize(
    "failure",
    [
        BrokerUnavailableError("no broker takes records"),
        OutcomeUnknownError("no acknowledgement from the broker"),
        OutcomeOpenError("no fence"),
        StaleRequestError("too old"),
        OverloadedError("too much waits"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_failure_is_told_as_aiohttp_does(
    fast: Place, slow: Place, sent: str, failure: Exception
) -> None:
    fast.producer.failure = slow.producer.failure = failure
    assert await answer_to(fast, PLAIN[sent]) == await answer_to(slow, PLAIN[sent])


async def test_of_a_batch_each_call_is_told_what_it_came_to(
    fast: Place, slow: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = FakeProducer._send

    def send_if_even(producer: FakeProducer, partition: int, records: Sequence[ToWrite]) -> Offsets:
        producer.failure = OutcomeUnknownError("no acknowledgement") if partition % 2 else None
        return send(producer, partition, records)

    monkeypatch.setattr(FakeProducer, "_send", send_if_even)
    sent = batch(*[ADA.replace(b"ada", b"ada-%d" % number) for number in range(30)])
    told = await answer_to(fast, sent)
    assert told == await answer_to(slow, sent)
    assert told[0] == b"HTTP/1.1 207 Multi-Status"
    assert 0 < told[2].count(b"outcome-unknown") < 30
    assert fast.is_fast


@pytest.mark.parametrize("path", ["/users", "/trpc/registerUser"])
@pytest.mark.parametrize("scope", ["read", "write", "admin", None])
async def test_where_keys_are_asked_for_it_lets_in_whom_aiohttp_lets_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str, scope: str | None
) -> None:
    keys_file = tmp_path / "keys.json"
    key = add_key(keys_file, scope) if scope else "unknown"
    asked: dict[str, Any] = {"keys_file": keys_file, "email_secret": SECRET}
    async with (
        serving(Runner, monkeypatch, **asked) as fast,
        serving(web.AppRunner, monkeypatch, **asked) as slow,
    ):
        for sent in (request(path=path), request(path=path, Authorization=f"Bearer {key}")):
            assert await answer_to(fast, sent) == await answer_to(slow, sent)
        assert len(fast.producer.sent) == len(slow.producer.sent) == (scope in {"write", "admin"})
        assert fast.is_fast == (scope in {"write", "admin"})


async def test_a_key_is_asked_for_with_each_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys_file = tmp_path / "keys.json"
    key = add_key(keys_file, "write")
    asked: dict[str, Any] = {"keys_file": keys_file, "email_secret": SECRET}
    async with (
        serving(Runner, monkeypatch, **asked) as fast,
        connected(fast) as (reader, writer),
    ):
        for sent, status in [
            (request(Authorization=f"Bearer {key}"), b"HTTP/1.1 202 Accepted"),
            (request(), b"HTTP/1.1 401 Unauthorized"),
            (request(Authorization=f"Bearer {key}"), b"HTTP/1.1 202 Accepted"),
        ]:
            writer.write(sent)
            assert (await answer(reader))[0] == status


async def test_a_connection_serves_one_after_the_other(fast: Place) -> None:
    async with connected(fast) as (reader, writer):
        for number in range(3):
            writer.write(request(ADA.replace(b'"ada"', b'"ada-%d"' % number)))
            status, _, body = await answer(reader)
            assert (status, b'"id":"ada-%d"' % number in body) == (b"HTTP/1.1 202 Accepted", True)
        assert fast.is_fast


async def test_a_request_may_come_in_pieces(fast: Place) -> None:
    async with connected(fast) as (reader, writer):
        sent = request()
        for begin in range(0, len(sent), 7):
            writer.write(sent[begin : begin + 7])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await answer(reader))[0] == b"HTTP/1.1 202 Accepted"
    assert fast.is_fast


async def test_a_connection_that_was_fast_can_ask_for_more(fast: Place) -> None:
    async with connected(fast) as (reader, writer):
        for sent, status in [
            (request(), b"HTTP/1.1 202 Accepted"),
            (request(path="/trpc/hello", method="GET", body=b""), b"HTTP/1.1 200 OK"),
            (request(), b"HTTP/1.1 202 Accepted"),
        ]:
            writer.write(sent)
            assert (await answer(reader))[0] == status
    assert not fast.is_fast


@pytest.mark.parametrize("pause", [False, True], ids=["at once", "one after the other"])
async def test_who_does_not_wait_is_answered_in_order(fast: Place, pause: bool) -> None:
    ids = [b"u%d" % number for number in range(5)]
    async with connected(fast) as (reader, writer):
        for user_id in ids:
            writer.write(request(ADA.replace(b"ada", user_id)))
            if pause:
                await writer.drain()
                await asyncio.sleep(0)
        told = [(await answer(reader))[2] for _ in ids]
    assert [re.findall(rb'"id":"(\w+)"', body)[0] for body in told] == ids


async def test_of_who_does_not_wait_no_more_is_kept_than_a_request_may_have(fast: Place) -> None:
    fast.producer.silent = True
    async with connected(fast) as (reader, writer):
        writer.write(request())
        await until(lambda: bool(fast.lanes) and fast.lanes[-1]._under_way is not None)
        flood = request() * 20_000
        writer.write(flood)
        await until(lambda: not fast.lanes[-1].transport.is_reading())  # type: ignore[union-attr]
        # What one read of the socket has brought goes over the limit.
        assert fast.lanes[-1]._later_bytes < 8 * 1024 + 1024 * 1024 < len(flood)
        fast.producer.silent = False
        fast.producer.acknowledge()
        # From here on aiohttp answers, one after the other.
        for _ in range(20):
            assert (await answer(reader))[0] == b"HTTP/1.1 202 Accepted"


async def test_of_who_takes_no_answers_nothing_more_is_answered(fast: Place) -> None:
    async with connected(fast) as (reader, writer):
        await until(lambda: bool(fast.lanes))
        lane = fast.lanes[-1]
        served = cast(asyncio.Transport, lane.transport)
        served.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        served.set_write_buffer_limits(high=1_024)
        fast.lookups.add("large", name="\N{GRINNING FACE}" * 256)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        asked = 0
        # One by one, whatever sockets would make of them.
        while not lane.writing_paused:
            lane.data_received(lookup("large"))
            asked += 1
        before = served.get_write_buffer_size()
        for _ in range(500):
            lane.data_received(lookup("large"))
        assert not served.is_reading()
        assert served.get_write_buffer_size() <= before
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(asked + 500):
            assert (await answer(reader))[0] == b"HTTP/1.1 200 OK"
        await until(served.is_reading)


async def test_who_takes_no_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Runner, monkeypatch, slow_client_seconds=1) as place:
        place.lookups.add("large", name="\N{GRINNING FACE}" * 256)
        async with connected(place) as (_, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await until(lambda: bool(place.lanes))
            lane = place.lanes[-1]
            while not lane.writing_paused:
                writer.write(lookup("large"))
                await asyncio.sleep(0)
            await until(lambda: lane.transport is None)
            with suppress(ConnectionError):
                await writer.drain()


async def test_who_waits_for_leave_to_send_gets_it(fast: Place) -> None:
    async with connected(fast) as (reader, writer):
        head, _, body = request(Expect="100-continue").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await answer(reader))[0] == b"HTTP/1.1 202 Accepted"


async def test_a_client_that_goes_away_does_no_harm(fast: Place) -> None:
    fast.producer.silent = True
    async with connected(fast) as (_, writer):
        writer.write(request())
        while not fast.producer.asked:
            await asyncio.sleep(0)
    fast.producer.give_up()
    fast.producer.silent = False
    assert (await answer_to(fast, request()))[0] == b"HTTP/1.1 202 Accepted"


async def test_what_is_under_way_is_answered_before_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with asyncio.timeout(30), serving(Runner, monkeypatch) as place:
        place.producer.silent = True
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(request())
        while not place.producer.asked:
            await asyncio.sleep(0)
        # The server stops at the end of this block, when what is silent is given up.
    assert (await answer(reader))[0] == b"HTTP/1.1 503 Service Unavailable"
    assert await reader.read() == b""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_connection_that_says_nothing_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.web.routes.KEEP_ALIVE_SECONDS", 0.2)
    async with serving(Runner, monkeypatch) as place, connected(place) as (reader, writer):
        writer.write(b"POST /users HTTP/1.1\r\nHost: localhost\r\n")
        assert await reader.read() == b""


async def test_a_connection_that_is_used_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.routes.KEEP_ALIVE_SECONDS", 0.4)
    async with serving(Runner, monkeypatch) as place, connected(place) as (reader, writer):
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 1:
            writer.write(request())
            assert (await answer(reader))[0] == b"HTTP/1.1 202 Accepted"
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.1)
