"""Whatever bodies and paths come, no answer is a 500 and none shows a traceback."""

import asyncio
import gc
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import orjson
import pytest
from aiohttp import web

from app.config.settings import Settings
from app.kafka import topics
from app.web.fast_lane import Runner
from app.web.routes import application_options, install, runner_options
from app.web.services import Services
from tests.component.fakes import FakeLookups, FakeProducer

CONNECTIONS = 16

SEEDS: Sequence[bytes] = (
    b'{"id":"ada","name":"Ada","email":"ada@example.com"}',
    b'[{"id":"ada","name":"Ada","email":"ada@example.com"},{"id":"eve"}]',
    b'{"0":{"id":"ada","name":"Ada","email":"ada@example.com"},"1":{"id":"eve"}}',
    b'{"id":"ada","name":"Ada","email":"ada@example.com"}\n{"id":"eve"}\n\n[1,2]\n',
    b'{"type":"update","id":"ada","name":"Eve"}',
)
PIECES: Sequence[bytes] = (
    b"\x00",
    b"\xff\xfe",
    b"\xc3",
    b"\\ud800",
    b'"\\u0000"',
    b"1e999",
    b"-0",
    b"9" * 400,
    b"[" * 3_000,
    b"{" * 50,
    b'"id":"again",',
    b"null",
    b"NaN",
    b"\r\n",
    b",",
    b"}",
    b'"',
    "🙈\u202e\u0000".encode(),
    b"<script>",
)
PATHS: Sequence[bytes] = (
    b"/users",
    b"/users/batch",
    b"/users/ada",
    b"/users?email=ada@example.com",
    b"/users?prefix=a&limit=5&cursor=YQ",
    b"/registrations/AQAAAAAAAAAAAAAAAAAA",
    b"/trpc/hello",
    b"/trpc/registerUser",
    b"/trpc/registerUser,registerUser?batch=1",
    b"/trpc/hello,userById?batch=1&input=%7B%220%22%3A%7B%7D%7D",
    b"/trpc/userById?input=%7B%22id%22%3A%22a%22%7D",
    b"/trpc/listUsers?input=%7B%22limit%22%3A5%7D",
    b"/register",
    b"/openapi.json",
)
PATH_PIECES: Sequence[bytes] = (
    *(b"%", b"%zz", b"%00", b"%ff", b"%2f..%2f", b"..", b"//", b",", b",,", b"?", b"&", b"="),
    *(b"batch=1", b"batch=true", b"input=", b"input=%7B", b"after=x", b"limit=-1", b"limit=1e9"),
    *(b"cursor=!", b"toString", b"__proto__", b"%2C", b"hello", b"a" * 3_000),
)
TYPES: Sequence[bytes] = (
    *(b"application/json", b"application/json", b"application/json; charset=utf-8", b"text/plain"),
    *(b"application/x-ndjson", b"application/x-www-form-urlencoded", b"", b"multipart/form-data"),
)
HEADERS: Sequence[bytes] = (
    *(b"", b"", b"", b"Prefer: wait=0\r\n", b"Prefer: wait=x\r\n", b"Registry-After: x\r\n"),
    *(
        b"trpc-accept: application/jsonl\r\n",
        b"trpc-batch-mode: stream\r\n",
        b"Accept: text/html\r\n",
    ),
    *(b"Registry-Forwarded: 1\r\n", b"Origin: null\r\n", b"Content-Encoding: gzip\r\n"),
)
METHODS = (b"GET", b"POST", b"POST", b"POST", b"PATCH", b"DELETE", b"PUT", b"OPTIONS", b"HEAD")


def mutated(dice: random.Random, text: bytes, pieces: Sequence[bytes]) -> bytes:
    """Return a text that was changed in a few places."""
    for _ in range(dice.choice((0, 0, 1, 1, 2, 4))):
        begin = dice.randint(0, len(text))
        end = min(len(text), begin + dice.choice((0, 0, 1, 5, 30)))
        text = text[:begin] + dice.choice(pieces) + text[end:]
    return text


def request(dice: random.Random) -> bytes:
    """Return a request as no client should send it, but wholly there."""
    method = dice.choice(METHODS)
    path = mutated(dice, dice.choice(PATHS), PATH_PIECES)
    path = b"".join(bytes([c]) for c in path if 0x20 < c < 0x7F)
    body = b"" if method in (b"GET", b"HEAD") else mutated(dice, dice.choice(SEEDS), PIECES)
    return (
        b"%b %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b"
        % (*(method, path, dice.choice(TYPES), dice.choice(HEADERS), len(body), body),)
    )


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Serve the web view as a worker does, with stand-ins for broker and tables."""
    settings = Settings(max_body_kib=64)
    app = web.Application(**application_options(settings))
    written = topics.declare(settings).user_registrations
    install(app, Services(settings, written, FakeProducer(), FakeLookups()))
    runner = Runner(app, **runner_options())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def answer_to(port: int, sent: bytes) -> tuple[int, bytes]:
    """Return the status and all else of what is answered on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            sent.replace(
                b"\r\nHost: localhost\r\n", b"\r\nHost: localhost\r\nConnection: close\r\n", 1
            )
        )
        told = await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    status, _, rest = told.partition(b" ")[2].partition(b" ")
    return int(status or 0), rest


@pytest.mark.parametrize(
    "count", [2_000, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]
)
async def test_no_request_makes_a_500(
    port: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    dice = random.Random(4711)
    requests = iter([request(dice) for _ in range(count)])
    statuses: dict[int, int] = {}

    async def client() -> None:
        for sent in requests:
            async with asyncio.timeout(20):
                status, told = await answer_to(port, sent)
            statuses[status] = statuses.get(status, 0) + 1
            assert 200 <= status < 600, (status, sent)
            assert status not in (500, 501, 502, 504), (status, sent)
            assert b"Traceback" not in told, sent
            head, _, body = told.partition(b"\r\n\r\n")
            if b"application/problem+json" in head and not sent.startswith(b"HEAD"):
                assert orjson.loads(body)["status"] == status

    gc.collect()  # What earlier tests left is logged now, not as ours.
    with caplog.at_level(logging.WARNING):
        await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    assert sum(statuses.values()) == count
    assert len(statuses) >= 8, statuses
    assert not [record for record in caplog.records if record.exc_info], caplog.text[:3_000]
