"""A client that goes away in the middle of an answer is no error; another lost connection is."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from app.web.http.problems import answer_errors


async def lose_it(request: web.Request) -> web.StreamResponse:
    """Fail as a handler does whose client, or whose other worker, is gone."""
    # uvloop and asyncio differ in which of these aiohttp raises.
    raise ConnectionError("Connection lost")


async def test_nobody_is_answered_who_is_gone() -> None:
    request = make_mocked_request("GET", "/export")
    assert request.transport is not None
    request.transport.is_closing.return_value = True  # type: ignore[attr-defined]
    with capture_logs() as logged, pytest.raises(ConnectionError):
        await answer_errors(request, lose_it)
    assert logged == []


async def test_a_client_that_is_there_is_told() -> None:
    request = make_mocked_request("GET", "/export")
    assert request.transport is not None
    request.transport.is_closing.return_value = False  # type: ignore[attr-defined]
    with capture_logs() as logged:
        answer = await answer_errors(request, lose_it)
    assert answer.status == 500
    assert [each["event"] for each in logged] == ["unexpected error in a handler"]
