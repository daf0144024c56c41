"""The tRPC protocol, checked against what @trpc/server 11 answers."""

import json
from typing import Any

import pytest
from yarl import URL

from app.errors import BrokerUnavailableError
from app.outcomes import Outcome
from app.positions import Position
from tests.functional.conftest import Client
from tests.functional.fakes import FakeLookups, FakeProducer

ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}
BAD = {"id": "bad", "name": "", "email": "nonsense"}
JSON = {"Content-Type": "application/json"}


async def ask(client: Client, method: str, path: str, **more: Any) -> tuple[int, Any]:
    """Return status and parsed body."""
    answer = await client.request(method, f"/trpc/{path}", **more)
    assert answer.content_type == "application/json"
    return answer.status, await answer.json()


def error(code: str, number: int, status: int, message: str, path: str | None) -> dict[str, Any]:
    """Return an error envelope as @trpc/server makes it."""
    data: dict[str, Any] = {"code": code, "httpStatus": status}
    if path is not None:
        data["path"] = path
    return {"error": {"message": message, "code": number, "data": data}}


async def test_hello(client: Client) -> None:
    assert await ask(client, "GET", "hello") == (200, {"result": {"data": "Hello tRPC!"}})


async def test_a_slash_at_the_end_makes_no_difference(client: Client) -> None:
    assert (await ask(client, "GET", "hello/"))[0] == 200


async def test_register_user_answers_with_the_position(
    client: Client, producer: FakeProducer
) -> None:
    status, body = await ask(client, "POST", "registerUser", json=ADA)
    data = body["result"]["data"]
    assert (status, data["status"], data["id"]) == (200, "success", "ada")
    assert len(data["position"]) == 20
    assert [key for _, _, key, _ in producer.sent] == [b"ada"]


async def test_register_user_can_wait_for_its_outcome(client: Client, lookups: FakeLookups) -> None:
    lookups.outcome_of_all = Outcome.REGISTERED
    wait = {"Prefer": "wait=2"}
    _, body = await ask(client, "POST", "registerUser", json=ADA, headers=wait)
    assert body["result"]["data"]["outcome"] == "registered"
    assert lookups.waited == [2.0]
    lookups.outcome_of_all = Outcome.EMAIL_TAKEN
    answer = await ask(client, "POST", "registerUser", json=ADA, headers=wait)
    told = "This email address belongs to another user."
    assert answer == (409, error("CONFLICT", -32009, 409, told, "registerUser"))


@pytest.mark.parametrize(
    "query", ['userById?input={"id":"ada"}', 'userByEmail?input={"email":"ada@example.com"}']
)
async def test_a_user_is_found_after_a_write(
    client: Client, lookups: FakeLookups, query: str
) -> None:
    found = lookups.add("ada")
    position = Position(1, 2)
    headers = {"Registry-After": position.token()}
    status, body = await ask(client, "GET", query, headers=headers)
    assert (status, body["result"]["data"]) == (200, found.model_dump(mode="json"))
    assert lookups.asked_after == [position]


async def test_a_user_who_is_not_there_is_not_found(client: Client) -> None:
    status, body = await ask(client, "GET", 'userById?input={"id":"nobody"}')
    assert (status, body["error"]["data"]["code"]) == (404, "NOT_FOUND")
    status, body = await ask(client, "GET", "userById")
    assert (status, body["error"]["data"]["code"]) == (400, "BAD_REQUEST")


async def test_a_batch_of_one_is_an_array(client: Client) -> None:
    status, body = await ask(client, "GET", "hello?batch=1&input=%7B%7D")
    assert (status, body) == (200, [{"result": {"data": "Hello tRPC!"}}])


@pytest.mark.parametrize("path", ["hello,hello", "hello%2Chello"])
async def test_a_batch_answers_in_the_order_of_its_calls(client: Client, path: str) -> None:
    status, body = await ask(client, "GET", f"{path}?batch=1&input=%7B%7D")
    assert (status, len(body)) == (200, 2)


async def test_one_bad_input_costs_only_its_own_call(
    client: Client, producer: FakeProducer
) -> None:
    calls = {"0": ADA, "1": BAD, "2": ADA | {"id": "eve"}}
    status, body = await ask(
        client, "POST", "registerUser,registerUser,registerUser?batch=1", json=calls
    )
    assert status == 207
    assert [sorted(one) for one in body] == [["result"], ["error"], ["result"]]
    assert body[1]["error"]["data"] == {
        "code": "BAD_REQUEST",
        "httpStatus": 400,
        "path": "registerUser",
    }
    issues = json.loads(body[1]["error"]["message"])
    assert [issue["path"] for issue in issues] == [["name"], ["email"]]
    assert sorted(key or b"" for _, _, key, _ in producer.sent) == [b"ada", b"eve"]


async def test_a_batch_of_equal_failures_has_their_status(client: Client) -> None:
    status, body = await ask(
        client, "POST", "registerUser,registerUser?batch=1", json={"0": BAD, "1": BAD}
    )
    assert (status, len(body)) == (400, 2)


async def test_a_call_without_input_fails_alone(client: Client) -> None:
    status, body = await ask(client, "POST", "registerUser,registerUser?batch=1", json={"0": ADA})
    assert status == 207
    assert body[1]["error"]["data"]["code"] == "BAD_REQUEST"


async def test_a_mutation_without_a_body_is_a_bad_request(client: Client) -> None:
    status, body = await ask(client, "POST", "registerUser", headers=JSON)
    assert (status, body["error"]["data"]["code"]) == (400, "BAD_REQUEST")


async def test_an_unknown_procedure(client: Client) -> None:
    assert await ask(client, "GET", "nope") == (
        404,
        error("NOT_FOUND", -32004, 404, 'No procedure found on path "nope"', "nope"),
    )


async def test_without_batch_a_comma_is_part_of_the_path(client: Client) -> None:
    assert (await ask(client, "GET", "hello,hello"))[0] == 404
    assert (await ask(client, "GET", "hello,hello?batch=true"))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed", "kind"),
    [
        ("POST", "hello", "GET", "query"),
        ("GET", "registerUser", "POST", "mutation"),
        ("PUT", "registerUser", "POST", "mutation"),
        ("DELETE", "hello", "GET", "query"),
    ],
)
async def test_a_wrong_method(
    client: Client, method: str, path: str, allowed: str, kind: str
) -> None:
    answer = await client.request(method, f"/trpc/{path}", headers=JSON)
    message = f'Unsupported {method}-request to {kind} procedure at path "{path}"'
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    assert await answer.json() == error("METHOD_NOT_SUPPORTED", -32005, 405, message, path)


async def test_another_content_type_is_refused_before_anything_else(client: Client) -> None:
    status, body = await ask(
        client, "POST", "nope", data=b"x", headers={"Content-Type": "text/plain"}
    )
    assert (status, body["error"]["data"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert "path" not in body["error"]["data"]


async def test_queries_and_mutations_do_not_mix(client: Client) -> None:
    status, body = await ask(client, "POST", "hello,registerUser?batch=1", json={"1": ADA})
    assert (status, body["error"]["data"]) == (400, {"code": "BAD_REQUEST", "httpStatus": 400})


async def test_too_many_calls_are_refused_as_one(client: Client) -> None:
    status, body = await ask(client, "GET", ",".join(["hello"] * 11) + "?batch=1")
    assert (status, body["error"]["data"]["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("body", [b"{", b"[]", b"7"])
async def test_a_malformed_batch_body_fails_each_call(client: Client, body: bytes) -> None:
    status, answers = await ask(
        client, "POST", "registerUser,registerUser?batch=1", data=body, headers=JSON
    )
    assert status == 400
    assert [one["error"]["data"]["code"] for one in answers] == ["BAD_REQUEST"] * 2


async def test_hello_reads_no_input_and_so_minds_none(client: Client) -> None:
    assert (await ask(client, "GET", "hello?input=%7B"))[0] == 200


async def test_a_path_that_is_not_utf8(client: Client) -> None:
    answer = await client.get(URL("/trpc/%FF", encoded=True))
    body = await answer.json()
    assert (answer.status, body["error"]["data"]) == (
        400,
        {"code": "BAD_REQUEST", "httpStatus": 400},
    )


async def test_a_body_over_the_limit(client: Client) -> None:
    status, body = await ask(client, "POST", "registerUser", json=ADA | {"name": "x" * 65 * 1024})
    assert (status, body["error"]["data"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert body["error"]["data"]["path"] == "registerUser"


async def test_a_broker_that_is_away(client: Client, producer: FakeProducer) -> None:
    producer.failure = BrokerUnavailableError("no broker takes records")
    answer = await client.post("/trpc/registerUser", json=ADA)
    body = await answer.json()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (body["error"]["code"], body["error"]["data"]["code"]) == (-32603, "SERVICE_UNAVAILABLE")


async def test_head_has_no_body(client: Client) -> None:
    answer = await client.head("/trpc/hello")
    assert (answer.status, await answer.read()) == (204, b"")
