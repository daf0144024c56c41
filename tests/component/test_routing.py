"""Asking another worker: who refuses to be asked is told of, once."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from app.domain.errors import NotReadyError
from app.query import worker_client
from app.query.routing import Routing
from app.query.worker_client import Asking, WorkerClient


class Other:
    """Another worker, which answers as it is told."""

    status = 200

    async def answer(self, _: web.Request) -> web.Response:
        """Answer."""
        return web.Response(status=self.status)


@asynccontextmanager
async def routing_of_its_own() -> AsyncIterator[Routing]:
    """Yield what asks others, and knows none."""
    client = WorkerClient(Asking())
    nothing = cast(Any, None)
    yield Routing(nothing, nothing, "users", nothing, client)
    await client.stop()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Run the other worker."""
    application = web.Application()
    application.router.add_get("/users/ada", Other().answer)
    async with TestServer(application) as server:
        yield str(server.make_url(""))


async def test_a_worker_that_refuses_to_be_asked_is_told_of_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with routing_of_its_own() as routing:

        async def told(status: int) -> list[str]:
            monkeypatch.setattr(Other, "status", status)
            with capture_logs() as logs:
                assert await routing.ask(url, "/users/ada") == (status, b"")
            return [line["event"] for line in logs]

        assert await told(200) == []
        assert await told(401) == ["a worker refuses to be asked: clocks or EMAIL_SECRET differ"]
        assert await told(401) == []
        assert await told(200) == []
        assert len(await told(401)) == 1


@pytest.fixture
async def rogue() -> AsyncIterator[tuple[str, list[str]]]:
    """Run a member of the group that wants proofs for others, or this worker's memory."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.raw_path)
        if request.path == "/redirects":
            raise web.HTTPFound("/export")
        headers = {"Content-Encoding": "gzip"} if request.path == "/packed" else {}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        with suppress(ConnectionError):
            if request.path == "/packed":
                await response.write(gzip.compress(bytes(1 << 20)))
            while request.path == "/endless":
                await response.write(bytes(1 << 20))
        return response

    application = web.Application()
    application.router.add_get("/{path}", answer)
    async with TestServer(application) as server:
        yield str(server.make_url("")), asked


async def test_a_member_that_redirects_is_not_followed(rogue: tuple[str, list[str]]) -> None:
    url, asked = rogue
    async with routing_of_its_own() as routing:
        status, _ = await routing.ask(url, "/redirects")
    assert (status, asked) == (302, ["/redirects"])


async def test_an_answer_is_bounded_and_not_unpacked(
    rogue: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_client, "MAX_ANSWER_BYTES", 1 << 20)
    url, _ = rogue
    async with routing_of_its_own() as routing:
        _, body = await routing.ask(url, "/packed")
        assert len(body) < 1 << 16
        with pytest.raises(NotReadyError):
            await routing.ask(url, "/endless")


def test_only_scheme_host_and_port_are_an_address_that_is_asked() -> None:
    good = [
        "http://worker-1:6066",
        "https://worker-1.example:6066/",
        "http://127.0.0.1:1",
        "http://[::1]:6066",
    ]
    bad = [
        "http://here:6066/export?",
        "http://here:6066/x",
        "http://here:6066?",
        "http://here:6066#",
        "http://other@here:6066",
        "http://here:6066\\@other",
        "http://here:6066\n",
        "http://he re:6066",
        "ftp://here:6066",
        "file:///etc/passwd",
        "//here:6066",
        "http://",
        "",
    ]
    known = {url: {"changelog": [3]} for url in [*good, *bad]}
    app = SimpleNamespace(
        conf=SimpleNamespace(canonical_url="http://this:1"),
        assignor=SimpleNamespace(table_metadata=lambda _: known),
    )
    changelog = cast(Any, SimpleNamespace(name="changelog"))
    routing = Routing(cast(Any, app), cast(Any, None), "users", changelog, cast(Any, None))
    with capture_logs() as logged:
        for _ in range(2):
            assert routing.owners_elsewhere([3]) == routing.other_workers() == set(good)
    assert [line["announced"] for line in logged] == bad


def test_a_worker_that_leaves_while_owners_are_looked_for_is_no_error() -> None:
    """The consumer's thread takes assignments in, whatever the event loop is at."""
    known = [{"http://other:1": {"changelog": [3]}}, {}]
    app = SimpleNamespace(
        conf=SimpleNamespace(canonical_url="http://here:1"),
        assignor=SimpleNamespace(table_metadata=lambda _: known.pop(0)),
    )
    changelog = cast(Any, SimpleNamespace(name="changelog"))
    routing = Routing(cast(Any, app), cast(Any, None), "users", changelog, cast(Any, None))
    assert routing.owners_elsewhere([3]) == {"http://other:1"}
    assert routing.owners_elsewhere([3]) == set()
