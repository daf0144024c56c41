"""Writes over REST: what is accepted, and how a mistake is told."""

from typing import Any

import orjson
import pytest

from app.errors import BrokerUnavailableError, OutcomeUnknownError, RecordTooLargeError
from app.keys import partition_of
from tests.functional.conftest import Client
from tests.functional.fakes import FakeProducer

ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}


async def test_a_registration_is_sent_keyed_to_its_partition(
    client: Client, producer: FakeProducer
) -> None:
    answer = await client.post("/users", json=ADA)
    assert answer.status == 202
    home = partition_of(b"ada", 8)
    assert producer.sent == [("user-registrations", home, b"ada", orjson.dumps(ADA))]


async def test_text_that_was_typed_is_text_that_is_sent(
    client: Client, producer: FakeProducer
) -> None:
    typed = {"id": "é 😀", "name": " <Ada> ", "email": " Ada@Example.com "}
    await client.post("/users", json=typed)
    assert orjson.loads(producer.sent[0][3] or b"") == typed


@pytest.mark.parametrize(
    ("body", "status", "kind", "pointers"),
    [
        (b"not json", 400, "malformed", []),
        (b"", 400, "malformed", []),
        (b"\xff", 400, "malformed", []),
        (b"[]", 422, "invalid", [""]),
        (b"{}", 422, "invalid", ["/id", "/name", "/email"]),
        (b'{"id":"a","name":"A","email":"nonsense"}', 422, "invalid", ["/email"]),
        (b'{"id":7,"name":"A","email":"a@example.com"}', 422, "invalid", ["/id"]),
    ],
)
async def test_a_bad_body_is_a_problem(
    client: Client, producer: FakeProducer, body: bytes, status: int, kind: str, pointers: list[str]
) -> None:
    answer = await client.post("/users", data=body, headers={"Content-Type": "application/json"})
    problem: dict[str, Any] = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["status"]) == (status, status)
    assert problem["type"] == f"urn:user-registry:problem:{kind}"
    assert [error["pointer"] for error in problem.get("errors", [])] == pointers
    assert producer.sent == []


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_is_not_declared_json_is_refused(
    client: Client, content_type: str
) -> None:
    answer = await client.post(
        "/users", data=orjson.dumps(ADA), headers={"Content-Type": content_type}
    )
    assert answer.status == 415
    assert answer.content_type == "application/problem+json"


async def test_a_body_over_the_limit_is_refused(client: Client) -> None:
    answer = await client.post("/users", json=ADA | {"name": "x" * 65 * 1024})
    assert answer.status == 413
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("failure", "status", "kind", "retry_after"),
    [
        (BrokerUnavailableError("no broker"), 503, "broker-unavailable", "1"),
        (OutcomeUnknownError("no acknowledgement"), 503, "outcome-unknown", "1"),
        (RecordTooLargeError("too large"), 413, "too-large", None),
        (RuntimeError("a bug with ada@example.com in it"), 500, "internal", None),
    ],
)
async def test_a_write_that_fails_is_told_truly(
    client: Client,
    producer: FakeProducer,
    failure: Exception,
    status: int,
    kind: str,
    retry_after: str | None,
) -> None:
    producer.failure = failure
    answer = await client.post("/users", json=ADA)
    problem = await answer.json(content_type="application/problem+json")
    assert answer.status == status
    assert problem["type"] == f"urn:user-registry:problem:{kind}"
    assert answer.headers.get("Retry-After") == retry_after
    assert "ada@example.com" not in await answer.text()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/users", "GET,HEAD,POST"), ("DELETE", "/health/live", "GET,HEAD")],
)
async def test_a_method_that_is_not_there_is_a_problem(
    client: Client, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    assert answer.content_type == "application/problem+json"


async def test_an_unknown_path_is_a_problem(client: Client) -> None:
    answer = await client.get("/nothing/here")
    assert (answer.status, answer.content_type) == (404, "application/problem+json")
