"""HEAD is answered with the headers of GET and without a body, on every route."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from app.config.settings import Settings
from app.kafka import topics
from app.query.overview import watching
from app.web.routes import application_options, install
from app.web.services import Services
from tests.component.access import SECRET, add_key, bearer
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer
from tests.component.test_dead_letters import FakeDeadLetters
from tests.component.test_overview import FakeState

#: What stands for a part of a path; and more addresses of a route.
PARTS = {"id": "ada", "position": "AQAAAAAAAAAAAAAAAAAA", "key": "a", "name": "registry.css"}
MORE = (
    *("/users/nobody", "/users?id=ada", "/users?prefix=a", "/users?limit=0", "/export?format=csv"),
    *("/export?format=doc", "/trpc/hello", "/trpc/nope", "/trpc/registerUser", "/static/nothing"),
    *("/trpc/userById?input=%7B%22id%22%3A%22ada%22%7D", "/trpc/hello,hello?batch=1", "/nothing"),
    *("/%FF", "/registrations/x", "/login?next=/users"),
)
#: Of what is streamed nobody knows the length; and no two answers are of one moment.
VARYING = ("Date", "Transfer-Encoding", "Content-Length", "Connection")


@pytest.fixture
async def client(
    lookups: FakeLookups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    monkeypatch.setattr(watching, "TICK_SECONDS", 0.01)
    keys_file = tmp_path / "keys.json"
    key = add_key(keys_file, "admin")
    settings = Settings.model_validate({"keys_file": keys_file, "email_secret": SECRET})
    web_app = web.Application(**application_options(settings))
    written = topics.declare(settings).user_registrations
    lookups.add("ada")
    given = Services(settings, written, FakeProducer(), lookups, dead_letters=FakeDeadLetters())
    install(web_app, replace(given, overview=FakeState(lookups)))
    async with TestClient(TestServer(web_app), headers=bearer(key)) as served:
        yield served


def addresses(client: Client) -> set[str]:
    """Return an address of each route that takes GET."""
    assert client.app is not None
    routes = client.app.router.routes()
    gets = [
        route.resource.canonical for route in routes if route.method == "GET" and route.resource
    ]
    return {path.format_map(PARTS) for path in gets}  # fmt: skip


def told(answer: ClientResponse) -> tuple[int, dict[str, str], bool]:
    """Return what both methods must have in common."""
    headers = {name: value for name, value in answer.headers.items() if name not in VARYING}
    is_long = "Content-Length" in answer.headers
    return answer.status, headers, is_long


@pytest.mark.parametrize("accept", ["application/json", "text/html", "application/jsonl"])
@pytest.mark.parametrize("ready", [True, False])
async def test_head_has_the_headers_of_get_and_no_body(
    client: Client, lookups: FakeLookups, accept: str, ready: bool
) -> None:
    lookups.ready = ready
    paths = {*addresses(client), *MORE}
    assert {"/events", "/export", "/users/ada", "/metrics", "/login"} <= paths
    for path in paths:
        async with asyncio.timeout(10):
            url, headers = URL(path, encoded=True), {"Accept": accept}
            async with client.get(url, headers=headers) as answer:
                expected = told(answer)
            answer = await client.head(url, headers=headers)
            assert told(answer) == expected, path
            assert await answer.read() == b""
