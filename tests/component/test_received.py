"""What cannot be read is refused by one rule, whatever it is for; none of it is a 500."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from app.web.fast_lane import Runner
from tests.component.test_fast_lane import ADA, Place, answer_to, connected, serving, until

pytestmark = pytest.mark.usefixtures("any_host")

BROKEN = ("%FF", "%C3", "%ED%A0%80", "%C0%80", "%zz", "%", "%4", "a%F0%9F%98")

#: Where an escape may stand, for programs and for people.
PLACES = (
    *("DELETE /users?id=", "DELETE /users/", "PATCH /users?id=", "PATCH /users/", "GET /users/"),
    *("GET /users?id=", "GET /users?email=", "GET /users?prefix=", "GET /users?cursor="),
    *("GET /users/ada?after=", "GET /users/ada?unknown=", "GET /users/ada?", "GET /registrations/"),
    *("GET /registrations?cursor=", "GET /email-holders/", "GET /export?prefix=", "GET /overview?"),
    *("GET /dead-letters?replayed=", "POST /dead-letters/", "GET /events?", "GET /?", "GET /docs?"),
    *("GET /register?", "GET /static/", "GET /metrics?", "GET /health/live?", "GET /nothing/"),
    *("GET /trpc/hello?input=", "GET /trpc/userById?input=", "GET /trpc/", "POST /trpc/"),
    *("POST /users?", "POST /users/batch?", "GET /openapi.json?", "OPTIONS /users/"),
)


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    async with serving(Runner, monkeypatch, slow_client_seconds=60) as served:
        yield served


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """Return a request; its body may be longer than it says."""
    lines = [f"{line} HTTP/1.1", "Host: a", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize("accepted", ["application/json", "text/html"])
@pytest.mark.parametrize("where", PLACES)
async def test_what_is_not_percent_encoded_utf8_is_refused(
    place: Place, where: str, accepted: str
) -> None:
    for broken in BROKEN:
        sent = request(f"{where}{broken}", f"Accept: {accepted}", "Content-Length: 0")
        assert (await answer_to(place, sent))[0] == b"HTTP/1.1 400 Bad Request", broken
    assert place.producer.sent == []


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_form_that_is_not_percent_encoded_utf8_is_refused(
    place: Place, broken: str
) -> None:
    body = f"id={broken}&name=a&email=a@b.example".encode()
    kind = "Content-Type: application/x-www-form-urlencoded"
    sent = request("POST /register", kind, f"Content-Length: {len(body)}", body=body)
    assert (await answer_to(place, sent))[0] == b"HTTP/1.1 400 Bad Request"
    assert place.producer.sent == []


BODIES: Sequence[tuple[str, str]] = (
    ("POST /users", "application/json"),
    ("PATCH /users/ada", "application/json"),
    ("POST /users/batch", "application/json"),
    ("POST /users/batch", "application/x-ndjson"),
    ("POST /trpc/registerUser", "application/json"),
    ("POST /register", "application/x-www-form-urlencoded"),
)


@pytest.mark.parametrize(("line", "kind"), BODIES)
async def test_a_body_that_is_cut_off_is_nothing_unexpected(
    place: Place, line: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with connected(place) as (_, writer):
            length = f"Content-Length: {len(ADA)}"
            # Another header, so that the fast lane has nothing to do with it.
            writer.write(request(line, f"Content-Type: {kind}", "X: y", length, body=ADA[:-5]))
            await until(lambda: place.lanes[-1]._current_request is not None)
        await until(lambda: place.lanes[-1]._current_request is None)
    assert not caplog.records
    assert place.producer.sent == []


@pytest.mark.parametrize(("line", "kind"), BODIES)
async def test_chunks_that_are_none_are_refused_at_once(place: Place, line: str, kind: str) -> None:
    async with connected(place) as (reader, writer):
        chunked = "Transfer-Encoding: chunked"
        writer.write(request(line, f"Content-Type: {kind}", chunked, body=b"5\r\n" + ADA[:5]))
        await until(lambda: place.lanes[-1]._current_request is not None)
        writer.write(b"\r\nzz\r\n")
        told = await reader.read()
    assert told.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"badly framed" in told


NUMBERS = ("9" * 5_000, "-1", "1e999", "NaN", "\u0661", "0x1", "1_0", " 1", "%00", "")
POSITION = "AQAAAAAAAAAAAAAAAAAA"
ODD = ("a" * 7_000, "\xff\xfe", "=", ";" * 500, ",", '"', "q=;q=x", "*/*;q=nan", "text/html;q=inf")


@pytest.mark.parametrize("accepted", ["application/json", "text/html"])
async def test_odd_values_are_nothing_unexpected(
    place: Place, accepted: str, caplog: pytest.LogCaptureFixture
) -> None:
    accept = f"Accept: {accepted}"
    asked = [
        *(f"GET /users/{'a' * 300}", f"GET /static/{'a' * 300}", f"GET /static/{'a/' * 300}"),
        *("GET /static/%00", "GET /static/vendor", "GET /static/..%2f..%2fapp"),
        *(f"GET /users/{'a/' * 8_000}", f"GET /registrations/{'A' * 8_000}", "GET /users/%00"),
        *(f"GET /users?limit={number}" for number in NUMBERS),
        *(f"GET /users?cursor={number}" for number in NUMBERS),
        *(f"GET /registrations?cursor={number}" for number in NUMBERS),
        *(f"GET /registrations/{POSITION}?wait={number}" for number in NUMBERS),
        *(f"GET /users/x?after={POSITION}&tries={number}" for number in NUMBERS),
        *(f"GET /users/x?after={number}" for number in NUMBERS),
    ]
    requests = [request(line, accept) for line in asked if line.isascii()]
    for name in (
        *("Accept", "Accept-Language", "Cookie", "Authorization", "Last-Event-ID", "traceparent"),
        *("Prefer", "Registry-After", "Registry-Forwarded", "If-None-Match", "If-Match", "Range"),
        *("X-Request-Id", "Origin", "Content-Type", "trpc-accept", "If-Modified-Since"),
    ):
        for odd in (*ODD, *NUMBERS):
            for line in ("GET /users/ada", "GET /static/registry.css", "GET /trpc/hello", "GET /"):
                begin = request(line, accept).removesuffix(b"\r\n")
                header = f"{name}: {odd}\r\n\r\n".encode("utf-8", "surrogateescape")
                requests.append(begin + header)
    with caplog.at_level(logging.WARNING):
        for sent in requests:
            async with asyncio.timeout(10):
                status = (await answer_to(place, sent))[0].split()[1]
            assert status in {b"200", b"202", b"206", b"304", b"400", b"404", b"412", b"416"}, sent
    assert not caplog.records
