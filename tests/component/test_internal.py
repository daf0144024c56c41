"""The internal address of a worker: what it serves, and what counts there."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientSession, web

from app.access.proofs import Proofs
from app.config.settings import Settings
from app.domain.errors import NotReadyError, Unavailable
from app.kafka import topics
from app.query.overview.collecting import TellsState
from app.query.worker_client import FORWARDED_HEADER
from app.web.accepting import Accepting
from app.web.fast_lane import Runner
from app.web.routes import application_options, install, runner_options
from app.web.services import Services
from local.machine import free_port
from tests.component.access import SECRET, add_key, bearer
from tests.component.fakes import FakeLookups, FakeProducer
from tests.component.test_fast_lane import lookup, request

ADA = {"id": "ada", "name": "Ada King", "email": "ada@example.com"}
FORWARDED = {FORWARDED_HEADER: "1"}
#: What is asked for as a client would.
CLIENTS = ["/", "/users/ada", "/users?id=ada", "/export", "/trpc/hello", "/docs", "/nothing"]


class Workers:
    """The addresses of a group's workers."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls

    def workers(self) -> list[str]:
        """Return them, if there are any."""
        if not self.urls:
            raise NotReadyError(Unavailable.REBALANCING)
        return self.urls


@dataclass
class Place:
    """A server with two addresses."""

    public: str
    internal: str
    server: Any
    client: ClientSession
    workers: Workers
    stopping: asyncio.Event

    async def get(self, url: str, **headers: str) -> int:
        """Return the status of the answer to a GET."""
        async with self.client.get(url, headers=headers) as answer:
            return answer.status


@asynccontextmanager
async def serving(**asked: Any) -> AsyncIterator[Place]:
    """Serve at a public address and at an internal one."""
    port = free_port()
    settings = Settings.model_validate({"internal_port": port, **asked})
    app = web.Application(**application_options(settings))
    lookups, workers, stopping = FakeLookups(), Workers([]), asyncio.Event()
    lookups.add("ada")
    written = topics.declare(settings).user_registrations
    services = Services(
        settings,
        written,
        FakeProducer(),
        lookups,
        overview=cast(TellsState, workers),
        is_stopping=stopping.is_set,
    )
    install(app, services)
    runner = Runner(app, **runner_options())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        public = f"http://127.0.0.1:{runner.addresses[0][1]}"
        await web.TCPSite(runner, "127.0.0.1", port).start()
        async with ClientSession() as client:
            internal = f"http://127.0.0.1:{port}"
            yield Place(public, internal, runner.server, client, workers, stopping)
    finally:
        await runner.cleanup()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """Serve as the defaults are."""
    async with serving() as opened:
        yield opened


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    """Return settings that ask for keys."""
    return {"keys_file": tmp_path / "keys.json", "email_secret": SECRET}


@pytest.mark.parametrize("path", CLIENTS)
async def test_it_is_not_for_clients(place: Place, path: str) -> None:
    assert await place.get(place.internal + path) == 421
    assert await place.get(place.public + path) != 421


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "OPTIONS"])
async def test_nothing_is_changed_there_whoever_says_to_be_a_worker(
    place: Place, method: str
) -> None:
    for path in ("/users", "/users/ada", "/trpc/registerUser"):
        asked = place.client.request(method, place.internal + path, json=ADA, headers=FORWARDED)
        async with asked as answer:
            assert answer.status in (404, 405, 421)


async def test_workers_and_those_who_watch_are_served_there(place: Place) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert await place.get(place.internal + path) == 200
    assert await place.get(f"{place.internal}/users?id=ada", **FORWARDED) == 200
    assert await place.get(f"{place.internal}/users?id=eve", **FORWARDED) == 404


async def test_other_hosts_are_refused_there_as_well(place: Place) -> None:
    asked = f"{place.internal}/users?id=ada"
    assert await place.get(asked, Host="evil.example", **FORWARDED) == 421
    assert await place.get(asked, Host="localhost", **FORWARDED) == 200


async def test_with_keys_a_worker_has_to_prove_who_it_is(keys: dict[str, Any]) -> None:
    key = add_key(keys["keys_file"], "admin")
    async with serving(**keys) as place:
        path = "/users?id=ada"
        proof = Proofs(SECRET.encode()).make(place.internal, path)
        assert await place.get(place.internal + path, **{FORWARDED_HEADER: proof}) == 200
        elsewhere = Proofs(SECRET.encode()).make(place.public, path)
        assert await place.get(place.internal + path, **{FORWARDED_HEADER: elsewhere}) == 401
        assert await place.get(place.internal + path, **FORWARDED) == 401
        # Not even a key lets a client in.
        assert await place.get(place.internal + path, **bearer(key)) == 421
        assert await place.get(f"{place.internal}/metrics") == 401
        assert await place.get(f"{place.internal}/metrics", **bearer(key)) == 200


async def test_no_proxy_is_believed_there(keys: dict[str, Any]) -> None:
    add_key(keys["keys_file"], "admin")
    async with serving(trusted_proxies=1, **keys) as place:
        told = {"X-Forwarded-Prefix": "/registry", "Accept": "text/html"}
        for url, shown in ((place.public, True), (place.internal, False)):
            async with place.client.get(f"{url}/metrics", headers=told) as answer:
                assert answer.status == 401
                assert ('"/registry/' in await answer.text()) == shown


async def test_clients_leave_room_for_workers() -> None:
    async with serving(max_connections=16, client_connections=16) as place:
        server = place.server
        assert (server.held._most, server.held_internally._most) == (14, 2)
        async with place.client.get(f"{place.internal}/health/live"):
            assert (server.held._count, server.held_internally._count) == (0, 1)


async def test_all_workers_are_told_as_prometheus_asks_for_them(place: Place) -> None:
    asked = f"{place.public}/metrics/targets"
    # Prometheus keeps what it was told last.
    assert await place.get(asked) == 503
    place.workers.urls = ["http://127.0.0.1:6067", "http://[::1]:6068", "https://a.example:6067"]
    async with place.client.get(asked) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        assert await answer.json() == [
            {
                "targets": ["127.0.0.1:6067", "[::1]:6068"],
                "labels": {"__scheme__": "http"},
            },
            {"targets": ["a.example:6067"], "labels": {"__scheme__": "https"}},
        ]


@pytest.mark.parametrize(
    "sent", [request(), lookup("ada"), lookup("ada", Cookie="a=b")], ids=["write", "read", "slow"]
)
async def test_a_worker_that_stops_ends_connections_with_an_answer(
    place: Place, sent: bytes
) -> None:
    host, port = place.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"close" not in head
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
    place.stopping.set()
    writer.write(sent)
    async with asyncio.timeout(30):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 20")
    assert head.count(b"\r\nConnection: close") == 1
    assert body
    writer.close()


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]
        self._transport.close()


async def test_what_a_worker_leaves_waits_for_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared:
        host, port = shared.getsockname()
        first = Accepting(shared, _Echo)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"first")
        async with asyncio.timeout(30):
            assert await reader.read() == b"first"
        first.stop()
        later_reader, later = await asyncio.open_connection(host, port)
        later.write(b"second")
        waiting = asyncio.create_task(later_reader.read())
        await asyncio.wait([waiting], timeout=0.1)
        assert not waiting.done()
        second = Accepting(shared, _Echo)
        async with asyncio.timeout(30):
            assert await waiting == b"second"
        second.stop()
        writer.close()
        later.close()
