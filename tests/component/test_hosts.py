"""Hosts: a page whose site's name leads here (DNS rebinding) is refused, in both lanes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from app.config.settings import Settings
from app.kafka import topics
from app.web.fast_lane import Runner
from app.web.http.hosts import Hosts, local_of, name_of
from app.web.routes import application_options, install, runner_options
from app.web.services import Services
from tests.component.access import SECRET, add_key
from tests.component.fakes import FakeLookups, FakeProducer

HERE = [
    "localhost",
    "LocalHost:6066",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.8.9.10:6066",
    "[::1]",
    "[::1]:6066",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]:6066",
]
ELSEWHERE = [
    "evil.example",
    "evil.example:6066",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example@localhost",
    "localhost@evil.example",
    "localhost/evil.example",
    "localhost evil.example",
    "localhost:evil",
    "::1",
    "[::1%lo]",
    "[localhost]",
    "192.0.2.1",
    "[2001:db8::1]:6066",
    "128.0.0.1",
    "127.1",
    "2130706433",
    ".",
]
BODY = b'{"id":"ada","name":"Ada King","email":"ada@example.com"}'
LOOKUP = "GET /users/ada HTTP/1.1"
WRITE = "POST /users HTTP/1.1"
TRPC = "POST /trpc/registerUser HTTP/1.1"


class Place:
    """A server, and what it was asked to write."""

    def __init__(self, port: int, producer: FakeProducer) -> None:
        self.port = port
        self.producer = producer

    async def status(self, line: str, *headers: str) -> int:
        """Return the status that a request with some headers gets."""
        return int((await self.answer(line, *headers)).split()[1])

    async def answer(self, line: str, *headers: str) -> bytes:
        """Return the whole answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        has_body = line.startswith(("POST", "PATCH"))
        kind = ["Content-Type: application/json", f"Content-Length: {len(BODY)}"]
        head = "\r\n".join([line, *headers, *(kind if has_body else [])])
        writer.write(head.encode() + b"\r\n\r\n" + (BODY if has_body else b""))
        body = b""
        async with asyncio.timeout(30):
            head_read = await reader.readuntil(b"\r\n\r\n")
            length = [
                each for each in head_read.lower().split(b"\r\n") if b"content-length" in each
            ]
            if length:
                body = await reader.readexactly(int(length[0].split(b":")[1]))
        writer.close()
        return head_read + body


@asynccontextmanager
async def serving(**asked: object) -> AsyncIterator[Place]:
    """Serve with the fast lane."""
    settings = Settings.model_validate(asked)
    app = web.Application(**application_options(settings))
    producer, lookups = FakeProducer(), FakeLookups()
    lookups.add("ada")
    written = topics.declare(settings).user_registrations
    install(app, Services(settings, written, producer, lookups))
    runner = Runner(app, **runner_options())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Place(runner.addresses[0][1], producer)
    finally:
        await runner.cleanup()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """Serve as the defaults are: without keys, on loopback."""
    async with serving() as opened:
        yield opened


@pytest.mark.parametrize(
    "line", [LOOKUP, WRITE, TRPC, "GET / HTTP/1.1", "DELETE /users/a HTTP/1.1"]
)
async def test_without_keys_only_this_machine_is_served(place: Place, line: str) -> None:
    for host in HERE:
        assert await place.status(line, f"Host: {host}") < 300, host
    sent = len(place.producer.sent)
    for host in ELSEWHERE:
        # aiohttp and the fast lane's parser refuse some of them by themselves.
        assert await place.status(line, f"Host: {host}") in {400, 421}, host
    assert len(place.producer.sent) == sent


@pytest.mark.parametrize(
    "line",
    [
        LOOKUP,
        WRITE,
        TRPC,
        "GET /users?limit=1 HTTP/1.1",
        "GET /export HTTP/1.1",
        "GET /events HTTP/1.1",
        "GET /metrics HTTP/1.1",
        "GET /health/live HTTP/1.1",
        "GET /static/registry.css HTTP/1.1",
        "GET /nothing HTTP/1.1",
        "POST /users/batch HTTP/1.1",
        "PATCH /users/ada HTTP/1.1",
        "DELETE /users/ada HTTP/1.1",
        "POST /register HTTP/1.1",
        "POST /dead-letters/x/replay HTTP/1.1",
        "OPTIONS /users HTTP/1.1",
    ],
)
async def test_the_refusal_is_a_problem_on_every_route(place: Place, line: str) -> None:
    answer = await place.answer(line, "Host: evil.example:6066", "Accept: text/html")
    assert answer.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
    assert b"\r\nContent-Type: application/problem+json\r\n" in answer
    assert b'"type":"urn:user-registry:problem:misdirected"' in answer
    assert b"evil" not in answer
    assert place.producer.sent == []


async def test_a_connection_that_was_served_is_not_trusted_for_that(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    for host, status in (("localhost", b"200"), ("evil.example", b"421"), ("localhost", b"200")):
        writer.write(f"{LOOKUP}\r\nHost: {host}\r\n\r\n".encode())
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] == status
            length = head.lower().split(b"content-length: ")[1].split()[0]
            await reader.readexactly(int(length))
    writer.close()


async def test_of_a_whole_address_as_the_target_its_host_counts(place: Place) -> None:
    for target, host, is_served in (
        ("http://localhost:6066", "localhost", True),
        ("http://evil.example", "localhost", False),
        # As RFC 9112 has it, section 3.2.2; no browser says two.
        ("http://localhost", "evil.example", True),
        ("http://localhost@evil.example", "localhost", False),
        ("http://evil.example@localhost", "localhost", False),
    ):
        for method, path in (("GET", "/users/ada"), ("POST", "/users")):
            status = await place.status(f"{method} {target}{path} HTTP/1.1", f"Host: {host}")
            assert (status < 300) == is_served, (method, target, host)


async def test_each_of_two_hosts_must_be_served(place: Place) -> None:
    hosts = ("Host: localhost", "Host: evil.example")
    for pair in (hosts, hosts[::-1]):
        assert await place.status(WRITE, *pair) in {400, 421}
    assert place.producer.sent == []


async def test_who_names_no_host_is_no_browser_if_that_is_how_it_speaks(place: Place) -> None:
    for path in ("/health/ready", "/metrics", "/users/ada"):
        assert await place.status(f"GET {path} HTTP/1.0") == 200
    assert await place.status("GET /users/ada HTTP/1.0", "Host: evil.example") == 421
    assert await place.status(LOOKUP) in {400, 421}
    assert await place.status(WRITE) in {400, 421}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
async def test_probes_by_any_address_are_served(place: Place, path: str) -> None:
    """A load balancer or a published port may translate the address that a probe asks."""
    for host in ("10.1.2.3:6066", "[2001:db8::1]:6066"):
        assert await place.status(f"GET {path} HTTP/1.1", f"Host: {host}") == 200
        assert await place.status(LOOKUP, f"Host: {host}") == 421
    assert await place.status(f"GET {path} HTTP/1.1", "Host: evil.example") == 421


async def test_other_workers_ask_under_the_address_that_is_announced() -> None:
    async with serving(web_url="http://worker-1.registry:6066") as place:
        for line in (LOOKUP, WRITE):
            assert await place.status(line, "Host: worker-1.registry:6066") < 300
            assert await place.status(line, "Host: worker-2.registry:6066") == 421


async def test_names_can_be_added() -> None:
    async with serving(allowed_hosts="Registry.example, 192.0.2.1,2001:db8::1") as place:
        for line in (LOOKUP, WRITE):
            for host in (
                "registry.example:443",
                "REGISTRY.example",
                "192.0.2.1",
                "[2001:db8::1]:1",
            ):
                assert await place.status(line, f"Host: {host}") < 300, host
            assert await place.status(line, "Host: localhost") < 300
            assert await place.status(line, "Host: other.example") == 421


async def test_with_keys_hosts_are_checked_only_if_they_are_named(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", "admin")
    headers = (f"Authorization: Bearer {key}", "Host: registry.example")
    asks = {"keys_file": tmp_path / "keys.json", "email_secret": SECRET}
    async with serving(**asks) as place:
        for line in (LOOKUP, WRITE):
            assert await place.status(line, *headers) < 300
    async with serving(**asks, allowed_hosts="other.example") as place:
        for line in (LOOKUP, WRITE):
            assert await place.status(line, *headers) == 421
            assert await place.status(line, headers[0], "Host: other.example") < 300
            assert await place.status(line, headers[0], "Host: localhost") < 300


def test_the_address_that_a_client_has_reached_is_served() -> None:
    """As a pod's own is to Kubernetes: who listens everywhere does not know it before."""
    hosts = Hosts.of(Settings(web_host="0.0.0.0", allow_open_bind=True))
    assert hosts is not None
    assert hosts.serves("10.1.2.3:6066", local_of(("10.1.2.3", 6066)))
    assert hosts.serves("10.1.2.3", local_of(("::ffff:10.1.2.3", 6066, 0, 0)))
    assert hosts.serves("[fe80::1]", local_of(("fe80::1%eth0", 6066, 0, 2)))
    assert not hosts.serves("10.1.2.4", local_of(("10.1.2.3", 6066)))
    assert not hosts.serves("", local_of("/run/socket"))


def test_a_host_is_read_as_browsers_write_it() -> None:
    assert name_of("Example.COM.:80") == "example.com"
    assert name_of("[2001:DB8:0::1]:80") == "2001:db8::1"
    assert name_of("[::ffff:10.0.0.1]") == "10.0.0.1"
    malformed = ("", ":80", "a:b:80", "a@b", "[a", "é.example", "a\n", "127.0.0.1]")
    for wrong in (*malformed, "a:65536", "[1.2.3.4]"):
        assert name_of(wrong) == ""
