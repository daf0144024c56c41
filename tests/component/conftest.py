"""The web view on a real HTTP server, with stand-ins for broker and tables."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from app.config.settings import Settings
from app.kafka import topics
from app.web.http.hosts import Hosts
from app.web.routes import application_options, install, runner_options
from app.web.services import Services
from tests.component.fakes import FakeFeed, FakeLookups, FakeProducer

Client = TestClient[web.Request, web.Application]


@pytest.fixture
def producer() -> FakeProducer:
    """Return a producer without a broker."""
    return FakeProducer()


@pytest.fixture
def lookups() -> FakeLookups:
    """Return lookups without tables."""
    return FakeLookups()


@pytest.fixture
def feed() -> FakeFeed:
    """Return outcomes without a broker."""
    return FakeFeed()


@pytest.fixture
async def client(
    producer: FakeProducer, lookups: FakeLookups, feed: FakeFeed
) -> AsyncIterator[Client]:
    """Serve the web view and return a client of it."""
    settings = Settings(max_body_kib=64, max_batch_calls=10)
    web_app = web.Application(**application_options(settings))
    written = topics.declare(settings).user_registrations
    services = Services(
        settings,
        written,
        producer,
        lookups,
        why_not_ready=lookups.why_not_ready,
        feed=feed,
    )
    install(web_app, services)
    server = TestServer(web_app)
    await server.start_server(**runner_options())
    async with TestClient(server) as serving:
        yield serving


@pytest.fixture
def any_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve whatever host is asked for, as with keys: a test is of something else."""
    monkeypatch.setattr(Hosts, "of", lambda _: None)
