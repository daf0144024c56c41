"""Asking another worker: who refuses to be asked is told of, once."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from app.routing import Routing


class Other:
    """Another worker, which answers as it is told."""

    status = 200

    async def answer(self, _: web.Request) -> web.Response:
        """Answer."""
        return web.Response(status=self.status)


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
    async with aiohttp.ClientSession() as session:
        app = cast(Any, SimpleNamespace(http_client=session))
        routing = Routing(app, "users", cast(Any, None))

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


def test_a_worker_that_leaves_while_owners_are_looked_for_is_no_error() -> None:
    """The consumer's thread takes assignments in, whatever the event loop is at."""
    known = [{"http://other:1": {"changelog": [3]}}, {}]
    app = SimpleNamespace(
        conf=SimpleNamespace(canonical_url="http://here:1"),
        assignor=SimpleNamespace(table_metadata=lambda _: known.pop(0)),
    )
    routing = Routing(cast(Any, app), "users", cast(Any, SimpleNamespace(name="changelog")))
    assert routing.owners_elsewhere([3]) == {"http://other:1"}
    assert routing.owners_elsewhere([3]) == set()
