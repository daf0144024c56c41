"""``/overview`` and ``/events``: what the registry is doing, once or as it goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from app.config.settings import Settings
from app.kafka import topics
from app.query.overview import watching
from app.query.overview.history import ticks
from app.query.overview.numbers import Counters, Moment, WorkerState
from app.query.worker_client import FORWARDED_HEADER
from app.web.api import events
from app.web.api.events import PLACES, WATCHING
from app.web.routes import application_options, install
from app.web.services import Services
from tests.component.access import add_key, bearer
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer


class FakeState:
    """One worker, which writes a hundred records a second."""

    def __init__(self, lookups: FakeLookups) -> None:
        self.asked = 0
        self.outcomes: dict[str, float] = {}
        self.remembered = [Counters(writes={"acknowledged": 7}, outcomes={}, acknowledgements={})]
        self._lookups = lookups

    def workers(self) -> list[str]:
        """Return where the worker is."""
        return ["http://127.0.0.1:6066"]

    async def here(self) -> WorkerState:
        """Return the worker's state."""
        return WorkerState(
            url="http://127.0.0.1:6066",
            writes={"acknowledged": 100.0 * self.asked},
            outcomes=self.outcomes,
            acknowledgements={},
            lag=[],
            owned=[0, 1],
            recovering=[],
            standby=[],
            newest=(await self._lookups.newest(20)).users,
        )

    async def history(self) -> list[dict[str, Any]]:
        """Return what is remembered."""
        return list(ticks([self.remembered]))

    def history_here(self) -> bytes:
        """Return what is remembered, as JSON."""
        return b"[]"

    async def moment(self) -> Moment:
        """Return the next second."""
        self.asked += 1
        return Moment(float(self.asked), [await self.here()])


@pytest.fixture
def state(lookups: FakeLookups) -> FakeState:
    """Return a state without workers."""
    return FakeState(lookups)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let seconds be short."""
    monkeypatch.setattr(watching, "TICK_SECONDS", 0.01)


def application(settings: Settings, lookups: FakeLookups, state: FakeState) -> web.Application:
    """Return the web view."""
    web_app = web.Application(**application_options(settings))
    written = topics.declare(settings).user_registrations
    services = Services(settings, written, FakeProducer(), lookups)
    install(web_app, replace(services, overview=state))
    return web_app


@pytest.fixture
async def client(lookups: FakeLookups, state: FakeState) -> AsyncIterator[Client]:
    """Serve the web view and return a client of it."""
    async with TestClient(TestServer(application(Settings(), lookups, state))) as serving:
        yield serving


async def event(answer: ClientResponse) -> dict[str, Any]:
    """Return the next event of a stream, behind its history."""
    line = await answer.content.readuntil(b"\n\n")
    if line.startswith(b"event: history\n"):
        line = await answer.content.readuntil(b"\n\n")
    assert line.startswith(b"data: ")
    told: dict[str, Any] = orjson.loads(line.removeprefix(b"data: "))
    return told


async def test_the_overview_is_told_once(client: Client, lookups: FakeLookups) -> None:
    lookups.add("a/b", name="<Ada>")
    answer = await client.get("/overview")
    assert (answer.status, answer.content_type) == (200, "application/json")
    told = await answer.json()
    assert told["writes_per_second"] == {"acknowledged": 100.0}
    assert told["workers"][0]["owned"] == [0, 1]
    assert told["partitions"] == 8
    (user,) = told["newest"]
    assert user == {
        "id": "a/b",
        "name": "<Ada>",
        "status": "registered",
        "registered_at": "2023-11-14T22:13:20Z",
        "url": "/users/a%2Fb",
    }


async def test_events_go_on_without_being_asked(client: Client, lookups: FakeLookups) -> None:
    async with client.get("/events") as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        assert (await event(answer))["newest"] == []
        lookups.add("ada")
        while not (told := await event(answer))["newest"]:
            pass
        assert told["newest"][0]["id"] == "ada"


async def test_what_was_before_comes_first(client: Client) -> None:
    async with client.get("/events") as answer:
        line = await answer.content.readuntil(b"\n\n")
        first, _, told = line.partition(b"\ndata: ")
        assert first == b"event: history"
        assert orjson.loads(told) == [
            {
                "writes_per_second": {"acknowledged": 7.0},
                "outcomes_per_second": {},
                "acknowledgement_ms": None,
            }
        ]
        assert (await event(answer))["writes_per_second"] == {"acknowledged": 100.0}


async def test_a_client_that_leaves_is_watched_for_no_longer(
    client: Client, state: FakeState
) -> None:
    async with client.get("/events") as answer:
        await event(answer)
    await nobody_watches(client)


async def nobody_watches(client: Client) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(30):
        while client.app[WATCHING].is_collecting:
            await asyncio.sleep(0)


@pytest.mark.parametrize("large", ["outcomes", "history"])
async def test_a_client_that_takes_nothing_is_cut_off(
    client: Client, state: FakeState, monkeypatch: pytest.MonkeyPatch, large: str
) -> None:
    monkeypatch.setattr(events, "SLOW_WATCHER_SECONDS", 0.2)
    # More than fits between here and a client.
    many = {f"outcome-{number}": 1.0 for number in range(100_000)}
    if large == "outcomes":
        state.outcomes = many
    else:
        state.remembered = [Counters(writes={}, outcomes=many, acknowledgements={})] * 3
    reader, writer = await asyncio.open_connection(client.host, client.port, limit=1)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert await reader.read(1) == b"H"
    await nobody_watches(client)
    writer.transport.abort()


@pytest.mark.parametrize(("limit", "status"), [("most", 503), ("most_of_client", 429)])
async def test_too_many_watchers_are_refused(client: Client, limit: str, status: int) -> None:
    setattr(client.app[PLACES], limit, 3)
    async with AsyncExitStack() as held:
        for _ in range(3):
            await held.enter_async_context(client.get("/events"))
        answer = await client.get("/events")
        assert (answer.status, answer.content_type) == (status, "application/problem+json")
        assert "Retry-After" in answer.headers
        # To look once is possible all the same; and asking for headers is not watching.
        assert (await client.get("/overview")).status == 200
        answer = await client.head("/events")
        assert (answer.status, answer.content_type) == (200, "text/event-stream")


async def test_streams_end_when_the_worker_stops(client: Client) -> None:
    async with client.get("/events") as answer:
        await event(answer)
        async with asyncio.timeout(30):
            await asyncio.gather(client.server.close(), answer.read())
        assert answer.content.at_eof()


async def test_only_other_workers_are_told_of_one_worker(client: Client) -> None:
    assert (await client.get("/overview?here=1")).status == 404
    answer = await client.get("/overview?here=1", headers={FORWARDED_HEADER: "1"})
    told = WorkerState.model_validate_json(await answer.read())
    assert told.owned == [0, 1]
    assert (await client.get("/overview?history=1")).status == 404
    answer = await client.get("/overview?history=1", headers={FORWARDED_HEADER: "1"})
    assert await answer.read() == b"[]"


async def test_the_overview_needs_a_key_that_may_read(
    lookups: FakeLookups, state: FakeState, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    reads, writes = add_key(path, "read"), add_key(path, "write")
    settings = Settings(keys_file=path, email_secret="a secret that only workers know")
    async with TestClient(TestServer(application(settings, lookups, state))) as serving:
        for url in ("/overview", "/events"):
            assert (await serving.get(url)).status == 401
            assert (await serving.get(url, headers=bearer(writes))).status == 403
        assert (await serving.get("/overview", headers=bearer(reads))).status == 200
        forged = bearer(reads) | {FORWARDED_HEADER: "1"}
        assert (await serving.get("/overview?here=1", headers=forged)).status == 404


async def test_the_page_may_listen_to_this_worker_only(client: Client) -> None:
    answer = await client.get("/", headers={"Accept": "text/html"})
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert policy.endswith("; connect-src 'self'")
