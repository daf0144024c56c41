"""What can be called over tRPC, one at a time and many at once."""

import json
from typing import Any

import orjson
import pytest

from app.domain.errors import BrokerUnavailableError, OutcomeUnknownError, OverloadedError
from app.domain.outcomes import Outcome
from app.domain.positions import Position
from app.web.trpc import PROCEDURES
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer
from tests.component.trpc import ADA, BAD, ask, error


async def test_hello(client: Client) -> None:
    assert await ask(client, "GET", "hello") == (200, {"result": {"data": "Hello tRPC!"}})


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
    assert answer == (409, error("CONFLICT", -32009, 409, told, "registerUser", "email-taken"))


STATE = {"ifVersion": 3, "ifPosition": Position(1, 7).token()}


@pytest.mark.parametrize(
    ("procedure", "given", "sent"),
    [
        ("updateUser", {"name": "B"}, {"type": "update", "id": "ada", "name": "B"}),
        (
            "updateUser",
            {"name": "B", "email": "b@example.com", **STATE},
            {"type": "update", "id": "ada", "name": "B", "email": "b@example.com", **STATE},
        ),
        ("eraseUser", {}, None),
        ("eraseUser", STATE, {"type": "erase", "id": "ada", **STATE}),
    ],
)
async def test_users_are_changed_and_erased(
    client: Client, producer: FakeProducer, procedure: str, given: Any, sent: Any
) -> None:
    status, body = await ask(client, "POST", procedure, json={"id": "ada", **given})
    data = body["result"]["data"]
    assert (status, data["status"], data["id"]) == (200, "success", "ada")
    ((_, _, key, value),) = producer.sent
    assert (key, value and orjson.loads(value)) == (b"ada", sent)


@pytest.mark.parametrize(
    ("procedure", "given", "pointer"),
    [
        ("updateUser", {}, ""),
        ("updateUser", {"name": "B", "ifVersion": 0}, "/ifVersion"),
        ("updateUser", {"name": "B", "ifPosition": "x"}, "/ifPosition"),
        ("updateUser", {"email": "none"}, "/email"),
        ("eraseUser", {"ifVersion": "3"}, "/ifVersion"),
    ],
)
async def test_a_change_that_is_not_valid_is_told(
    client: Client, producer: FakeProducer, procedure: str, given: Any, pointer: str
) -> None:
    status, body = await ask(client, "POST", procedure, json={"id": "ada", **given})
    told = body["error"]["data"]
    assert (status, told["reason"]) == (400, "invalid")
    assert [each["pointer"] for each in told["errors"]] == [pointer]
    assert producer.sent == []


async def test_many_are_registered_in_one_call_with_a_receipt_for_each(
    client: Client, producer: FakeProducer
) -> None:
    rows = [ADA, BAD, {"type": "erase", "id": "ada"}, ADA | {"id": "eve"}, 7]
    status, body = await ask(client, "POST", "registerUsers", json=rows)
    told = body["result"]["data"]
    assert status == 200
    assert [(each.get("id"), "position" in each) for each in told] == [
        ("ada", True),
        (None, False),
        (None, False),
        ("eve", True),
        (None, False),
    ]
    assert {each["error"]["reason"] for each in told if "error" in each} == {"invalid"}
    assert told[1]["error"]["errors"][0]["pointer"].startswith("/")
    assert sorted(key or b"" for _, _, key, _ in producer.sent) == [b"ada", b"eve"]
    for wrong in ([], [ADA] * 1_001, ADA):
        status, _ = await ask(client, "POST", "registerUsers", json=wrong)
        assert status == 400


@pytest.mark.parametrize(
    ("failure", "status"), [(OverloadedError("too much"), 503), (OutcomeUnknownError("late"), 200)]
)
async def test_rows_that_the_broker_does_not_take_say_why(
    client: Client, producer: FakeProducer, failure: Exception, status: int
) -> None:
    producer.failure = failure
    answered, body = await ask(client, "POST", "registerUsers", json=[ADA])
    assert answered == status
    if status == 200:
        (told,) = body["result"]["data"]
        assert (told["id"], told["error"]["reason"]) == ("ada", "outcome-unknown")
        assert told["error"]["retryAfter"] == 1


async def test_a_change_can_wait_for_its_outcome(client: Client, lookups: FakeLookups) -> None:
    wait = {"Prefer": "wait=2"}
    lookups.outcome_of_all = Outcome.UPDATED
    change = {"id": "ada", "name": "B", "ifVersion": 1}
    _, body = await ask(client, "POST", "updateUser", json=change, headers=wait)
    assert body["result"]["data"]["outcome"] == "updated"
    lookups.outcome_of_all = Outcome.VERSION_MISMATCH
    for procedure in ("updateUser", "eraseUser"):
        status, body = await ask(client, "POST", procedure, json=change, headers=wait)
        told = body["error"]["data"]
        assert (status, told["code"]) == (412, "PRECONDITION_FAILED")
        assert told["reason"] == "version-mismatch"


async def test_what_became_of_a_write_can_be_asked(client: Client, lookups: FakeLookups) -> None:
    position = Position(3, 7)
    lookups.outcomes[position] = Outcome.EMAIL_TAKEN
    query = f'registration?input={{"position":"{position.token()}"}}'
    _, body = await ask(client, "GET", query)
    assert body["result"]["data"] == {
        "position": position.token(),
        "outcome": "rejected",
        "reason": "email-taken",
    }
    unknown = f'registration?input={{"position":"{Position(3, 2_000).token()}"}}'
    status, body = await ask(client, "GET", unknown)
    assert (status, body["error"]["data"]["reason"]) == (404, "unknown-position")


async def test_users_are_counted(client: Client, lookups: FakeLookups) -> None:
    lookups.add("ada")
    asked = len(lookups.asked_after)
    answer = await client.get("/trpc/countUsers,countUsers?batch=1")
    for told in await answer.json():
        assert told == {"result": {"data": {"users": 1, "days": {"2023-11-14": 1}}}}
    assert len(lookups.asked_after) == asked + 1
    lookups.ready = False
    status, body = await ask(client, "GET", "countUsers")
    assert (status, body["error"]["data"]["reason"]) == (503, "not-ready")


async def test_a_full_queue_is_a_conflict_that_says_when_to_try_again(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.outcome_of_all = Outcome.TOO_MANY_PENDING
    answer = await client.post("/trpc/registerUser", json=ADA, headers={"Prefer": "wait=2"})
    told = (await answer.json())["error"]
    assert (answer.status, answer.headers["Retry-After"]) == (409, "1")
    assert told["data"] == {
        "code": "CONFLICT",
        "httpStatus": 409,
        "reason": "too-many-pending",
        "path": "registerUser",
        "retryAfter": 1,
    }
    assert told["message"].endswith("Send it again in a moment.")


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
    assert (status, body["result"]["data"]) == (200, orjson.loads(found.encode()))
    assert lookups.asked_after == [position]


async def test_a_user_who_is_not_there_is_not_found(client: Client) -> None:
    status, body = await ask(client, "GET", 'userById?input={"id":"nobody"}')
    assert (status, body["error"]["data"]["code"]) == (404, "NOT_FOUND")
    status, body = await ask(client, "GET", "userById")
    assert (status, body["error"]["data"]["code"]) == (400, "BAD_REQUEST")


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
        "reason": "invalid",
        "path": "registerUser",
        "errors": [
            {"pointer": "/name", "detail": "Must not be empty"},
            {"pointer": "/email", "detail": "Must be an email address, such as ada@example.com"},
        ],
    }
    issues = json.loads(body[1]["error"]["message"])
    assert [issue["path"] for issue in issues] == [["name"], ["email"]]
    assert sorted(key or b"" for _, _, key, _ in producer.sent) == [b"ada", b"eve"]


@pytest.mark.parametrize("path", ["registerUser", "registerUser?batch=1", "userById?batch=1"])
async def test_a_client_with_a_transformer_is_told_what_to_do(client: Client, path: str) -> None:
    enveloped = {"json": ADA, "meta": {"values": {}}}
    given = {"0": enveloped} if "batch" in path else enveloped
    if path.startswith("registerUser"):
        status, told = await ask(client, "POST", path, json=given)
    else:
        status, told = await ask(client, "GET", f"{path}&input={orjson.dumps(given).decode()}")
    error = (told[0] if "batch" in path else told)["error"]
    assert (status, error["data"]["reason"]) == (400, "malformed")
    assert "take the transformer (superjson) off" in error["message"]


async def test_unknown_members_of_an_input_are_dropped(
    client: Client, producer: FakeProducer
) -> None:
    given = {**ADA, "admin": True}
    assert (await ask(client, "POST", "registerUser", json=given))[0] == 200
    assert [orjson.loads(value or b"") for *_, value in producer.sent] == [ADA]


async def test_a_batch_of_registrations_is_one_write(
    client: Client, producer: FakeProducer
) -> None:
    calls = {str(index): ADA | {"id": f"ada-{index}"} for index in range(10)}
    path = ",".join(["registerUser"] * 10)
    status, body = await ask(client, "POST", f"{path}?batch=1", json=calls)
    assert (status, len(producer.asked)) == (200, 1)
    assert [one["result"]["data"]["id"] for one in body] == [one["id"] for one in calls.values()]


async def test_what_the_broker_did_not_take_costs_only_its_own_calls(
    client: Client, producer: FakeProducer
) -> None:
    producer.failures_from = (1, OutcomeUnknownError("no acknowledgement from the broker in time"))
    calls = {"0": ADA, "1": BAD}
    answer = await client.post("/trpc/registerUser,registerUser?batch=1", json=calls)
    assert (answer.status, len(producer.sent)) == (207, 1)
    calls = {"0": BAD, "1": ADA}
    answer = await client.post("/trpc/registerUser,registerUser?batch=1", json=calls)
    told = [one["error"]["data"] for one in await answer.json()]
    assert [data["httpStatus"] for data in told] == [400, 503]
    # Whether a retry is safe.
    assert [data["reason"] for data in told] == ["invalid", "outcome-unknown"]
    assert (answer.status, answer.headers["Retry-After"]) == (207, "1")


async def test_a_batch_beyond_what_may_wait_is_refused_but_for_what_is_wrong_anyway(
    client: Client, producer: FakeProducer
) -> None:
    producer.failure = OverloadedError("more writes wait than this worker may keep")
    path = "registerUser,registerUser,registerUser?batch=1"
    status, body = await ask(client, "POST", path, json={"0": ADA, "1": BAD, "2": ADA})
    told = [one["error"]["data"]["httpStatus"] for one in body]
    assert (status, told) == (207, [503, 400, 503])


async def test_settled_registrations_of_a_batch_are_told_one_by_one(
    client: Client, producer: FakeProducer, lookups: FakeLookups
) -> None:
    lookups.outcome_of_all = Outcome.REGISTERED
    eve = ADA | {"id": "eve"}
    await ask(client, "POST", "registerUser", json=ADA)
    partition = next(iter(producer.asked[0]))
    lookups.outcomes = {Position(partition, 1): Outcome.ID_TAKEN}
    path = "registerUser,registerUser?batch=1"
    headers = {"Prefer": "wait=2"}
    status, body = await ask(client, "POST", path, json={"0": ADA, "1": eve}, headers=headers)
    assert status == 207
    assert body[0]["error"]["data"]["code"] == "CONFLICT"
    assert body[1]["result"]["data"]["outcome"] == "registered"


async def test_a_broker_that_is_away(client: Client, producer: FakeProducer) -> None:
    producer.failure = BrokerUnavailableError("no broker takes records")
    answer = await client.post("/trpc/registerUser", json=ADA)
    body = await answer.json()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (body["error"]["code"], body["error"]["data"]["code"]) == (-32603, "SERVICE_UNAVAILABLE")


def test_every_procedure_describes_its_input_and_output() -> None:
    for procedure in PROCEDURES.values():
        assert procedure.output.json_schema(mode="serialization")
        takes = {"type": "object"} if procedure.input is None else procedure.input.json_schema()
        assert takes["type"] in ("object", "array")
