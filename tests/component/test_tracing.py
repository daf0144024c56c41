"""A request's id comes back, and names the position of its write in the log."""

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app.domain.positions import Position
from app.web.http.tracing import HEADER
from tests.component.conftest import Client

ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}
POSITION = Position(2, 0)


@pytest.mark.parametrize("path", ["/users", "/trpc/registerUser"])
async def test_a_write_is_found_by_the_id_of_its_request(client: Client, path: str) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        answer = await client.post(path, json=ADA, headers={HEADER: "trace-4711"})
    told = await answer.json()
    position = told["position"] if "position" in told else told["result"]["data"]["position"]
    assert answer.headers[HEADER] == "trace-4711"
    (line,) = [line for line in lines if line["event"] == "write acknowledged"]
    assert (line["position"], line["request_id"]) == (position, "trace-4711")
    assert "ada" not in str(line)


@pytest.mark.parametrize("path", ["/nothing", "/users/ada", "/registrations/x"])
async def test_errors_give_the_id_back_too(client: Client, path: str) -> None:
    answer = await client.get(path, headers={HEADER: "a.b_c-1"})
    assert (answer.status >= 400, answer.headers[HEADER]) == (True, "a.b_c-1")


@pytest.mark.parametrize("given", ["", "two words", "a" * 65, "ä", "<b>"])
async def test_what_is_no_id_is_ignored(client: Client, given: str) -> None:
    with capture_logs() as lines:
        answer = await client.post("/users", json=ADA, headers={HEADER: given})
    assert answer.status == 202
    assert HEADER not in answer.headers
    assert not [line for line in lines if "acknowledged" in line["event"]]
