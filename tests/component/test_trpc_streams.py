"""Streamed tRPC answers, as the links of versions 11 and 10 read them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import orjson
import pytest
from yarl import URL

from app.domain.outcomes import Outcome
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer

ADA = {"id": "ada", "name": "Grüße", "email": "ada@example.com"}
HELLO = {"result": {"data": "Hello tRPC!"}}
JSONL = {"trpc-accept": "application/jsonl"}
MEMBERS = {"trpc-batch-mode": "stream"}


async def lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of an answer as they come; each must end."""
    async for line in answer.content:
        assert line.endswith(b"\n") or line == b"}"
        yield line


def jsonl(body: bytes) -> tuple[Mapping[str, Any], dict[int, Any]]:
    """Return the head of a stream, and the envelopes of its calls."""
    assert body.endswith(b"\n")
    head, *told = map(orjson.loads, body.splitlines())
    assert all(status == 0 for _, status, _ in told)
    return head, {chunk: value[0][0] for chunk, _, value in told}


@pytest.mark.parametrize(
    "headers",
    [
        JSONL,
        {"Accept": "application/jsonl"},
        {"Accept": "text/html, application/jsonl"},
        JSONL | MEMBERS,
    ],
)
async def test_a_stream_has_a_head_and_a_line_for_each_call(
    client: Client, headers: dict[str, str]
) -> None:
    answer = await client.get("/trpc/hello,nope?batch=1", headers=headers)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.headers["Vary"] == "trpc-accept, accept"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    head, told = jsonl(await answer.read())
    assert head == {"0": [[0], [None, 0, 0]], "1": [[0], [None, 0, 1]]}
    assert told[0] == HELLO
    assert told[1]["error"]["data"] == {
        "code": "NOT_FOUND",
        "httpStatus": 404,
        "reason": "not-found",
        "path": "nope",
    }


async def test_what_trpc_accepts_counts_more_than_what_http_does(client: Client) -> None:
    headers = {"trpc-accept": "application/json", "Accept": "application/jsonl"}
    answer = await client.get("/trpc/hello?batch=1", headers=headers)
    assert await answer.json() == [HELLO]


@pytest.mark.parametrize("headers", [JSONL, MEMBERS])
async def test_a_slow_call_holds_back_no_other(
    client: Client, lookups: FakeLookups, headers: dict[str, str]
) -> None:
    lookups.held["ada"] = asyncio.Event()
    lookups.add("ada", name="Grüße")
    path = 'userById,hello,userById?batch=1&input={"0":{"id":"ada"},"2":{"id":"eve"}}'
    answer = await client.get(f"/trpc/{path}", headers=headers)
    coming = lines(answer)
    quick = [await anext(coming) for _ in range(3 if headers is JSONL else 2)]
    assert b"Hello tRPC!" in b"".join(quick)
    assert b"NOT_FOUND" in b"".join(quick)
    lookups.held["ada"].set()
    slow = b"".join([line async for line in coming])
    assert b'"id":"ada"' in slow


async def test_registrations_are_told_as_they_are_settled(
    client: Client, lookups: FakeLookups, producer: FakeProducer
) -> None:
    lookups.outcome_of_all = Outcome.REGISTERED
    answer = await client.post(
        "/trpc/registerUser,registerUser,registerUser?batch=1",
        json={"0": ADA, "1": {}, "2": ADA},
        headers={**JSONL, "Prefer": "wait=2"},
    )
    body = await answer.read()
    order = [orjson.loads(line)[0] for line in body.splitlines()[1:]]
    assert (order[0], sorted(order), len(producer.asked)) == (1, [0, 1, 2], 1)
    _, told = jsonl(body)
    assert told[0]["result"]["data"]["outcome"] == "registered"


async def test_a_body_over_the_limit_is_told_within_the_stream(client: Client) -> None:
    large = {"0": ADA | {"name": "x" * 65 * 1024}, "1": ADA}
    path = "/trpc/registerUser,registerUser?batch=1"
    answer = await client.post(path, json=large, headers=JSONL)
    _, told = jsonl(await answer.read())
    assert answer.status == 200
    assert [told[index]["error"]["data"]["httpStatus"] for index in (0, 1)] == [413, 413]


async def test_a_stream_must_be_a_batch(client: Client) -> None:
    answer = await client.get("/trpc/hello", headers=JSONL)
    body = await answer.json(content_type=None)
    assert (answer.status, body["error"]["data"]) == (
        400,
        {"code": "BAD_REQUEST", "httpStatus": 400, "reason": "malformed"},
    )


async def test_a_stream_that_fails_as_a_whole_is_one_error(client: Client) -> None:
    """An array there would make the client of version 11 say that it was aborted."""
    too_many = ",".join(["hello"] * 11)
    for path, headers in ((f"{too_many}?batch=1", JSONL), ("%FF?batch=1", JSONL)):
        answer = await client.get(URL(f"/trpc/{path}", encoded=True), headers=headers)
        body = await answer.json(content_type=None)
        assert (answer.status, body["error"]["data"]["code"]) == (400, "BAD_REQUEST")


async def test_the_stream_of_version_10_is_an_object_over_lines(client: Client) -> None:
    answer = await client.get("/trpc/hello,nope?batch=1", headers=MEMBERS)
    body = await answer.read()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert "trpc-batch-mode" in answer.headers["Vary"]
    first, second, last = body.splitlines()
    assert (first[:5], second[:5], last) == (b'{"1":', b',"0":', b"}")
    assert orjson.loads(body)["0"] == HELLO


async def test_the_stream_of_version_10_is_cut_in_no_letter(
    client: Client, lookups: FakeLookups
) -> None:
    """Its client decodes each piece that comes by itself."""
    lookups.add("ada", name="Grüße 𝄞")
    path = 'userById?batch=1&input={"0":{"id":"ada"}}'
    answer = await client.get(f"/trpc/{path}", headers=MEMBERS)
    body = await answer.read()
    assert body.isascii()
    assert orjson.loads(body)["0"]["result"]["data"]["name"] == "Grüße 𝄞"


async def test_a_stream_of_version_10_that_fails_as_a_whole_fails_each_call(
    client: Client,
) -> None:
    """Its client makes nothing of one error for all."""
    path = ",".join(["hello"] * 11)
    answer = await client.get(f"/trpc/{path}?batch=1", headers=MEMBERS)
    told = orjson.loads(await answer.read())
    # No more answers than there may be calls: one byte of a path is a hundred of them.
    assert (answer.status, len(told)) == (400, 10)
    assert told["9"]["error"]["data"] == {
        "code": "BAD_REQUEST",
        "httpStatus": 400,
        "reason": "malformed",
    }


async def test_a_single_call_is_no_stream_of_version_10(client: Client) -> None:
    answer = await client.get("/trpc/hello", headers=MEMBERS)
    assert await answer.json() == HELLO


async def test_a_client_that_goes_away_leaves_nothing_behind(
    client: Client, lookups: FakeLookups, caplog: pytest.LogCaptureFixture
) -> None:
    lookups.held["ada"] = asyncio.Event()
    path = 'userById,hello?batch=1&input={"0":{"id":"ada"}}'
    answer = await client.get(f"/trpc/{path}", headers=JSONL)
    await anext(lines(answer))
    answer.close()
    lookups.held["ada"].set()
    assert (await client.get("/trpc/hello")).status == 200
    assert not caplog.records
