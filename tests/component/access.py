"""A registry that asks for keys, without a broker, and keys for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from app.access.files import read_keys, write_keys
from app.access.keys import new_key
from app.access.scopes import Scope
from app.config.settings import Settings
from app.ingest.rate_limits import Limits
from app.kafka import topics
from app.web.routes import application_options, install
from app.web.services import Services
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer

SECRET = "a secret that only workers know"
ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}


def add_key(path: Path, *scopes: str, name: str | None = None) -> str:
    """Return a new key, kept in a file."""
    keys = read_keys(path)
    text, key = new_key(name or "-".join(scopes), frozenset(map(Scope, scopes)), None)
    write_keys(path, (*keys, key))
    return text


def bearer(key: str) -> dict[str, str]:
    """Return the header that a program sends."""
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def serving(
    producer: FakeProducer, lookups: FakeLookups, **settings: object
) -> AsyncIterator[Client]:
    """Serve the web view with some settings and return a client of it."""
    wanted = Settings.model_validate(settings)
    web_app = web.Application(**application_options(wanted))
    written = topics.declare(wanted).user_registrations
    limits = Limits(wanted.max_writes_per_second, wanted.client_writes_per_second)
    install(web_app, Services(wanted, written, producer, lookups, limits=limits))
    async with TestClient(TestServer(web_app)) as client:
        yield client
