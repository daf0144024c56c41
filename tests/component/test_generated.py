"""Generated requests: with the fast lane and without it the answers are the same, and no 500."""

import asyncio
import gc
import gzip
import json as json_module
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import orjson
import pytest
from backports import zstd
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.component.lanes import both_lanes
from tests.component.test_fast_lane import Place

pytestmark = pytest.mark.usefixtures("any_host")

_POSITION = re.compile(rb"AQ[A-Za-z0-9_-]{18}")
_ESCAPED = tuple(f"%{byte:02X}".encode() for byte in (0, 0x2E, 0x2F, 0x41, 0x80, 0xC3, 0xFF))


def weighted(plain: Sequence[bytes], odd: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return what is plain nine times in ten."""
    return st.sampled_from([*plain] * (9 * len(odd) // len(plain) + 1) + [*odd])


ids = st.text(min_size=0, max_size=12) | st.sampled_from(
    ["ada", "here-1.~_", "elsewhere", "a" * 129]
)
users = st.fixed_dictionaries(
    {"id": ids, "name": st.text(max_size=20) | st.none(), "email": st.just("ada@b.c") | ids},
    optional={"type": st.sampled_from(["registration", "update", "x"]), "x": st.integers(-9, 9)},
)  # fmt: skip
good = st.fixed_dictionaries(
    {"id": st.text("abc.~_-/%ü", min_size=1, max_size=20),
     "name": st.text(min_size=1, max_size=20).filter(str.isprintable),
     "email": st.sampled_from(["ada@example.com", "ADA@bücher.example", " a@b.c "])},
)  # fmt: skip
json = st.one_of(
    good,
    good,
    good,
    users,
    st.lists(users, max_size=3),
    st.just({"0": {"id": "ada"}}),
    st.fixed_dictionaries({"0": good, "1": good | users}, optional={"2": good}),
)
bodies = st.one_of(
    json.map(orjson.dumps),
    json.map(orjson.dumps),
    st.lists(users, max_size=3).map(lambda rows: b"\n".join(map(orjson.dumps, rows))),
    st.binary(max_size=40),
    st.sampled_from([b"", b"{", b"[]", b"null", b"id=ada&name=Ada&email=a%40b.c", b"id=%FF"]),
    st.just(b'{"id":"\\u0000","name":"\\ud800","email":"a@b.c"}'),
)

PLAIN = st.sampled_from(
    [
        *(b"POST /users", b"POST /trpc/registerUser", b"GET /users/here-1.~_"),
        *(b"GET /users/elsewhere", b"POST /trpc/registerUser,registerUser?batch=1"),
        b"GET /users?email=ada%40example.com",
    ]
)
METHODS = weighted(
    [b"POST", b"GET", b"PATCH", b"DELETE"], [b"HEAD", b"OPTIONS", b"PUT", b"TRACE", b"post", b"FOO"]
)
PATHS = weighted(
    [b"/users", b"/trpc/registerUser", b"/users/ada", b"/users/here-1.~_", b"/users/elsewhere"],
    [
        *(b"/users/batch", b"/users?id=ada", b"/users?prefix=a&limit=5", b"/users?limit=1e9"),
        *(b"/users?email=a@b.c", b"/users?after=x", b"/users/a?after=AQAAAAAAAAAAAAAAAAAA"),
        *(b"/registrations", b"/registrations/AQAAAAAAAAAAAAAAAAAA", b"/registrations/x"),
        *(b"/trpc/hello", b"/trpc/userById?input=%7B%22id%22%3A%22ada%22%7D", b"/trpc/nope"),
        *(b"/trpc/registerUser,hello?batch=1", b"/trpc/listUsers?batch=1&input=%7B%7D"),
        *(b"/counts", b"/counts?after=x", b"/trpc/countUsers"),
        *(b"/trpc/registerUser?batch=1", b"/email-holders/x?caught_up=0", b"/users?id=%C3%A4"),
        *(b"/register", b"/openapi.json", b"/health/live", b"/static/registry.css", b"/", b"*"),
        *(b"http://a/users", b"http://b/users/ada", b"//users", b"/users#x", b"users", b"/export"),
    ],
)
PIECES = weighted(
    [b""],
    [*_ESCAPED, b"%", b"%zz", b"?", b"&", b"#", b"/", b"..", b"a" * 200],
)
VERSIONS = weighted([b" HTTP/1.1"], [b" HTTP/1.0", b"", b" HTTP/2.0", b" HTTP/1.1 ", b" HTTP/1"])
HOSTS = weighted(
    [b"Host: a\r\n", b"host: a.example:6066\r\n"],
    [b"", b"Host: a\r\nHost: a\r\n", b"Host: a b\r\n", b"Host: [::1]\r\n", b"Host: a:99999\r\n"],
)
KINDS = weighted(
    [b"Content-Type: application/json\r\n"],
    [
        *(b"", b"Content-Type: text/plain\r\n", b"Content-Type: application/x-ndjson\r\n"),
        *(
            b"Content-Type: application/json; charset=utf-8\r\n",
            b"CONTENT-TYPE:application/json\r\n",
        ),
        b"Content-Type: application/x-www-form-urlencoded\r\n",
    ],
)
HEADERS = st.sampled_from(
    [
        *(b"Accept: */*\r\n", b"Accept: application/json\r\n", b"Accept: text/html\r\n"),
        *(b"User-Agent: node\r\n", b"user-agent: x\ty\r\n", b"User-Agent: \xe9\r\n"),
        *(b"Connection: keep-alive\r\n", b"Connection: close\r\n", b"Accept-Encoding: gzip\r\n"),
        *(b"Authorization: Bearer x\r\n", b"Authorization: \xff\r\n", b"Cookie: a=b; ;=\r\n"),
        *(b"Prefer: wait=1\r\n", b"Prefer: wait=x\r\n", b"Registry-After: x\r\n"),
        *(b"X-Request-Id: r-1\r\n", b"X-Request-Id: a b\r\n", b"traceparent: 00-x\r\n"),
        *(b"Origin: https://evil.example\r\n", b"Origin: http://a\r\n", b"Expect: x\r\n"),
        *(b"trpc-accept: application/jsonl\r\n", b"Registry-Forwarded: 1\r\n", b"X-Odd: \r\n"),
        *(b"Accept : x\r\n", b"Accept: x\r\n y\r\n", b"a\r\n", b"X: \0\r\n", b"X: a\rb\r\n"),
        *(b"X: y\n", b"Range: bytes=0-\r\n"),
        *(b"User-Agent: %b\r\n" % (b"a" * size) for size in (4_000, 8_000, 8_200)),
        *(b"Content-Encoding: gzip\r\n", b"Upgrade: h2c\r\n", b"If-None-Match: *\r\n"),
    ]
)  # fmt: skip

#: A body as a client may pack it, or break it, and what it says of that.
PACKED = st.sampled_from(
    [
        lambda body: (gzip.compress(body), b"Content-Encoding: gzip\r\n"),
        lambda body: (zstd.compress(body), b"Content-Encoding: ZSTD\r\n"),
        lambda body: (gzip.compress(body)[:-1], b"Content-Encoding: gzip\r\n"),
        lambda body: (zstd.compress(body) + b"x", b"Content-Encoding: zstd\r\n"),
        lambda body: (gzip.compress(body), b"Content-Encoding: gzip, gzip\r\n"),
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return a request that is wholly there, however odd."""
    body, is_plain = draw(bodies), draw(st.integers(0, 2)) > 0
    body, packed = draw(PACKED)(body) if not draw(st.integers(0, 9)) else (body, b"")
    begin = draw(PLAIN) if is_plain else draw(METHODS) + b" " + draw(PATHS)
    method = begin.partition(b" ")[0]
    if method in (b"GET", b"HEAD") and draw(st.integers(0, 9)):
        body = kind = length = b""
    else:
        kind = draw(KINDS)
        exact = b"Content-Length: %d\r\n" % len(body)
        chunked = b"Transfer-Encoding: chunked\r\n"
        odd = [b"Content-Length: 0%d\r\n" % len(body), exact * 2, b"Content-Length: -1\r\n", b"",
               b"Content-Length: +1\r\n", exact + b"Content-Length: 1\r\n", exact + chunked,
               b"Transfer-Encoding: x\r\n", chunked]  # fmt: skip
        length = draw(weighted([exact], odd))
        if length == chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    headers = b"".join(draw(st.lists(HEADERS, max_size=2))) if draw(st.booleans()) else b""
    line = begin + draw(PIECES) + draw(VERSIONS)
    return b"".join([line, b"\r\n", draw(HOSTS), kind, headers, packed, length, b"\r\n", body])


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, but for what differs from one to the next."""

    line: bytes
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.line.split()[1])


async def read(reader: asyncio.StreamReader, method: bytes) -> Answer | None:
    """Return the next answer; None if the connection ended before it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.strip().split(b"\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(b": ") for each in lines)}
    for varying in (b"date", b"server"):
        headers.pop(varying, None)
    if method == b"HEAD" or line.split()[1] in (b"204", b"304"):
        body = b""
    elif headers.get(b"transfer-encoding") == b"chunked":
        body = await reader.readuntil(b"0\r\n\r\n")
    elif b"content-length" in headers:
        body = await reader.readexactly(int(headers[b"content-length"]))
    else:
        body = await reader.read()
    known = {name: _POSITION.sub(b"position", value) for name, value in headers.items()}
    return Answer(line, known, _POSITION.sub(b"position", body))


async def answers(place: Place, sent: Sequence[bytes], cut: int) -> list[Answer]:
    """Return what a place answers to requests on one connection, the first of them in two parts."""
    place.lanes.clear()
    told: list[Answer] = []
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        try:
            for each in sent:
                if cut:
                    writer.write(each[:cut])
                    await asyncio.sleep(0)
                writer.write(each[cut:])
                answer = await read(reader, each.partition(b" ")[0])
                if answer is None:
                    break
                told.append(answer)
        except ConnectionError:
            pass  # what came after the last answer was not read
        finally:
            writer.transport.abort()
    # Refused before its second part came, which then took the answer away with it.
    return told or (await answers(place, sent, 0) if cut else [])


@pytest.mark.parametrize(
    "count", [400, pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])]
)
def test_generated_requests_are_answered_alike(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    gc.collect()  # what earlier tests left is logged now, not as ours
    statuses: Counter[int] = Counter()
    fast_answers = 0
    with asyncio.Runner() as loop, caplog.at_level(logging.WARNING):
        stack = AsyncExitStack()
        fast, slow = loop.run(stack.enter_async_context(both_lanes(monkeypatch)))

        @hypothesis_settings(
            max_examples=count, derandomize=True, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.lists(requests(), min_size=1, max_size=2), st.integers(0, 200))
        def alike(sent: Sequence[bytes], cut: int) -> None:
            nonlocal fast_answers
            written = [len(place.producer.sent) for place in (fast, slow)]
            told = loop.run(answers(fast, sent, cut))
            fast_answers += len(told) * fast.is_fast
            assert told == loop.run(answers(slow, sent, cut))
            assert fast.producer.sent[written[0] :] == slow.producer.sent[written[1] :]
            statuses.update(answer.status for answer in told)
            assert told
            assert 500 not in {answer.status for answer in told}
            assert not any(b"Traceback" in answer.body for answer in told)

        try:
            alike()
        finally:
            loop.run(stack.aclose())
    print(f"{sum(statuses.values())} answers, {fast_answers} by the fast lane: {dict(statuses)}")  # noqa: T201
    assert not [record for record in caplog.records if record.exc_info], caplog.text[:3_000]
    assert {200, 202, 400, 404, 405, 422, 505} <= set(statuses)
    assert fast_answers > count // 20


#: Rows of a batch: most are registrations, however they are written.
rows = st.lists(st.one_of(good, good, good, users), min_size=1, max_size=6)
ways = st.sampled_from([orjson.dumps, lambda row: json_module.dumps(row, indent=1).encode()])


def test_batches_are_accepted_alike_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the fast lane, by aiohttp, and as lines: the same records, and the same errors."""
    fast_answers = 0
    with asyncio.Runner() as loop:
        stack = AsyncExitStack()
        fast, slow = loop.run(stack.enter_async_context(both_lanes(monkeypatch)))

        def answered(place: Place, path: bytes, kind: bytes, body: bytes) -> Answer:
            head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\n" % (path, kind)
            sent = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            place.producer.sent.clear()
            (told,) = loop.run(answers(place, [sent], 0))
            return told

        @hypothesis_settings(
            max_examples=100, derandomize=True, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(rows, ways)
        def alike(given: list[object], encoded: Callable[[object], bytes]) -> None:
            nonlocal fast_answers
            calls = b",".join([b"registerUser"] * len(given))
            numbered = encoded({str(index): row for index, row in enumerate(given)})
            called = b"/trpc/%b?batch=1" % calls, b"application/json", numbered
            told = answered(fast, *called)
            fast_answers += fast.is_fast
            assert told == answered(slow, *called)
            assert fast.producer.sent == slow.producer.sent
            over_trpc = {*fast.producer.sent}
            accepted = told.body.count(b'"position":')
            listed = answered(fast, b"/users/batch", b"application/json", encoded(given))
            assert {*fast.producer.sent} == over_trpc
            lines = b"\n".join(map(orjson.dumps, given))
            assert listed == answered(slow, b"/users/batch", b"application/x-ndjson", lines)
            assert {*slow.producer.sent} == over_trpc
            assert orjson.loads(listed.body)["accepted"] == accepted

        try:
            alike()
        finally:
            loop.run(stack.aclose())
    assert fast_answers > 5
