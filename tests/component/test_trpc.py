"""The tRPC protocol, checked against what @trpc/server 11 answers."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import cast
from urllib.parse import quote

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDict
from yarl import URL

from app.config.settings import Settings
from app.ingest.rate_limits import Limits
from app.web.http.problems import Handler, ProblemError, answer_errors
from app.web.routes import install
from app.web.services import Services
from tests.component.conftest import Client
from tests.component.trpc import ADA, BAD, JSON, ask, error, refused


async def test_a_slash_at_the_end_makes_no_difference(client: Client) -> None:
    assert (await ask(client, "GET", "hello/"))[0] == 200
    assert (await ask(client, "GET", "hello//"))[0] == 200


async def test_a_batch_of_one_is_an_array(client: Client) -> None:
    status, body = await ask(client, "GET", "hello?batch=1&input=%7B%7D")
    assert (status, body) == (200, [{"result": {"data": "Hello tRPC!"}}])


@pytest.mark.parametrize("path", ["hello,hello", "hello%2Chello"])
async def test_a_batch_answers_in_the_order_of_its_calls(client: Client, path: str) -> None:
    status, body = await ask(client, "GET", f"{path}?batch=1&input=%7B%7D")
    assert (status, len(body)) == (200, 2)


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


@pytest.mark.parametrize("path", ["nope", "", "toString", "hello.x"])
async def test_an_unknown_procedure(client: Client, path: str) -> None:
    told = f'No procedure found on path "{path}"'
    assert await ask(client, "GET", path) == (
        404,
        error("NOT_FOUND", -32004, 404, told, path, "not-found"),
    )


async def test_an_unknown_procedure_in_a_batch_costs_only_its_own_call(client: Client) -> None:
    status, body = await ask(client, "GET", "hello,nope?batch=1")
    assert (status, [sorted(one) for one in body]) == (207, [["result"], ["error"]])
    status, body = await ask(client, "GET", "userById,nope?batch=1")
    assert (status, [one["error"]["data"]["httpStatus"] for one in body]) == (207, [400, 404])


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
    assert await answer.json() == error(
        "METHOD_NOT_SUPPORTED", -32005, 405, message, path, "method-not-allowed"
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_another_content_type_is_refused_before_anything_else(
    client: Client, method: str
) -> None:
    headers = {"Content-Type": "text/plain"}
    told = 'Unsupported content-type "text/plain"'
    unsupported = error("UNSUPPORTED_MEDIA_TYPE", -32015, 415, told, None, "unsupported-media-type")
    answer = await refused(client, method, "nope", data=b"x", headers=headers)
    assert answer == (415, unsupported)


async def test_a_missing_content_type_is_refused_before_the_method(client: Client) -> None:
    headers = CIMultiDict({"Origin": "https://elsewhere.example"})
    unsupported = error(
        "UNSUPPORTED_MEDIA_TYPE",
        -32015,
        415,
        "Missing content-type header",
        None,
        "unsupported-media-type",
    )
    answer = await refused(
        client, "POST", "hello", headers=headers, skip_auto_headers=["Content-Type"]
    )
    assert answer == (415, unsupported)


@pytest.mark.parametrize("given", ["Application/JSON", "application/json; charset=utf-8"])
async def test_parameters_and_case_of_the_content_type_do_not_matter(
    client: Client, given: str
) -> None:
    body = orjson.dumps(ADA)
    headers = {"Content-Type": given}
    assert (await ask(client, "POST", "registerUser", data=body, headers=headers))[0] == 200


async def test_a_get_may_have_any_content_type(client: Client) -> None:
    """Clients of version 10 send one, others none."""
    for given in ("application/json", "text/plain"):
        assert (await ask(client, "GET", "hello", headers={"Content-Type": given}))[0] == 200


async def test_queries_and_mutations_do_not_mix(client: Client) -> None:
    told = "Cannot mix procedure types in call: query, mutation"
    answer = await refused(client, "POST", "hello,registerUser?batch=1", json={"1": ADA})
    assert answer == (400, error("BAD_REQUEST", -32600, 400, told, None, "malformed"))


async def test_too_many_calls_are_refused_as_one(client: Client) -> None:
    told = "Batch call exceeds maximum size"
    answer = await refused(client, "GET", ",".join(["hello"] * 11) + "?batch=1")
    assert answer == (400, error("BAD_REQUEST", -32600, 400, told, None, "malformed"))


@pytest.mark.parametrize("body", [b"{", b"[]", b"7"])
async def test_a_malformed_batch_body_fails_each_call(client: Client, body: bytes) -> None:
    status, answers = await ask(
        client, "POST", "registerUser,registerUser?batch=1", data=body, headers=JSON
    )
    assert status == 400
    assert [one["error"]["data"]["code"] for one in answers] == ["BAD_REQUEST"] * 2


@pytest.mark.parametrize("given", [b"{", b'"\\ud800"', b"\xff"])
async def test_malformed_json_is_a_bad_request(client: Client, given: bytes) -> None:
    status, body = await ask(client, "POST", "registerUser", data=given, headers=JSON)
    assert (status, body["error"]["code"]) == (400, -32600)
    assert body["error"]["data"]["path"] == "registerUser"
    query = quote(given)
    answer = await client.get(URL(f"/trpc/userById?input={query}", encoded=True))
    assert (answer.status, (await answer.json(content_type=None))["error"]["code"]) == (400, -32600)


async def test_hello_reads_no_input_and_so_minds_none(client: Client) -> None:
    assert (await ask(client, "GET", "hello?input=%7B"))[0] == 200
    status, body = await ask(client, "GET", "hello,userById?batch=1&input=%7B")
    assert (status, [sorted(one) for one in body]) == (207, [["result"], ["error"]])


async def test_a_batch_without_input_has_none_for_each_call(client: Client) -> None:
    assert (await ask(client, "GET", "hello?batch=1"))[0] == 200
    status, body = await ask(client, "GET", "userById?batch=1")
    assert (status, json.loads(body[0]["error"]["message"])[0]["message"]) == (400, "Required")


@pytest.mark.parametrize(
    ("problem", "code", "number"),
    [
        (ProblemError(401, "no-key", "Give a key."), "UNAUTHORIZED", -32001),
        (ProblemError(403, "weak-key", "The key may not write."), "FORBIDDEN", -32003),
        (ProblemError(422, "invalid", "It is invalid."), "UNPROCESSABLE_CONTENT", -32022),
        (ProblemError(429, "too-many", "Too many."), "TOO_MANY_REQUESTS", -32029),
        (ProblemError(503, "overloaded", "Busy."), "SERVICE_UNAVAILABLE", -32603),
        (ProblemError(500, "internal", "Something."), "INTERNAL_SERVER_ERROR", -32603),
    ],
)
async def test_what_fails_before_the_handler_is_one_error(
    problem: ProblemError, code: str, number: int
) -> None:
    """Clients give it to all calls of the request."""
    problem = replace(problem, headers={"Retry-After": "3"})

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        raise problem

    web_app = web.Application(middlewares=[answer_errors, refuse])
    given = SimpleNamespace(settings=Settings(), limits=Limits(), reads=Limits(are_reads=True))
    install(web_app, cast(Services, given))
    wanted = error(code, number, problem.status, problem.detail, None, problem.name)
    wanted["error"]["data"]["retryAfter"] = 3
    async with TestClient(TestServer(web_app)) as client:
        for path in ("hello", "hello,hello?batch=1"):
            assert await refused(client, "GET", path) == (problem.status, wanted)
        answer = await client.get("/trpc/hello", headers={"Accept": "text/html"})
        assert (answer.headers["Retry-After"], await answer.json(content_type=None)) == (
            "3",
            wanted,
        )
        assert (await client.get("/users")).content_type == "application/problem+json"


async def test_a_path_that_is_not_utf8(client: Client) -> None:
    for path in ("%FF", "%", "hello%2"):
        status, body = await refused(client, "GET", path)
        told = {"code": "BAD_REQUEST", "httpStatus": 400, "reason": "malformed"}
        assert (status, body["error"]["data"]) == (400, told)


async def test_a_body_over_the_limit(client: Client) -> None:
    status, body = await ask(client, "POST", "registerUser", json=ADA | {"name": "x" * 65 * 1024})
    assert (status, body["error"]["data"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert body["error"]["data"]["path"] == "registerUser"


async def test_answers_vary_by_what_asks_for_a_stream(client: Client) -> None:
    answer = await client.get("/trpc/hello")
    assert answer.headers["Vary"] == "trpc-accept, accept"
