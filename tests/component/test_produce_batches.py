"""Many registrations in one request: a JSON array or NDJSON."""

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.domain.errors import (
    BrokerUnavailableError,
    OutcomeOpenError,
    OutcomeUnknownError,
    OverloadedError,
    StaleRequestError,
)
from app.domain.keys import partition_of
from app.ingest.accumulator import Offsets
from app.kafka.fast_records import ToWrite
from app.web.api import batches
from app.web.http.room import TURN
from tests.component.conftest import Client
from tests.component.fakes import FakeProducer

NDJSON = {"Content-Type": "application/x-ndjson"}


def user(number: int) -> dict[str, str]:
    return {"id": f"u{number}", "name": "Ada", "email": f"u{number}@example.com"}


def lines(*rows: object) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def sent_ids(producer: FakeProducer) -> set[bytes | None]:
    return {key for _, _, key, _ in producer.sent}


async def test_an_array_is_accepted(client: Client, producer: FakeProducer) -> None:
    answer = await client.post("/users/batch", json=[user(1), user(2)])
    assert (answer.status, await answer.json()) == (202, {"accepted": 2, "rejected": []})
    assert sorted(producer.sent) == sorted(
        ("user-registrations", partition_of(key, 8), key, orjson.dumps(user(number)))
        for number, key in ((1, b"u1"), (2, b"u2"))
    )


async def test_a_bad_row_costs_only_itself(client: Client, producer: FakeProducer) -> None:
    bad = {"id": "u2", "name": "", "email": "nonsense"}
    answer = await client.post("/users/batch", json=[user(1), bad, user(3), 7])
    told = await answer.json()
    assert (answer.status, told["accepted"]) == (202, 2)
    assert [row["index"] for row in told["rejected"]] == [1, 3]
    assert [error["pointer"] for error in told["rejected"][0]["errors"]] == ["/name", "/email"]
    assert "nonsense" not in await answer.text()
    assert sent_ids(producer) == {b"u1", b"u3"}


@pytest.mark.parametrize(
    "content_type", ["application/x-ndjson", "application/ndjson", "application/jsonl"]
)
async def test_lines_are_accepted(
    client: Client, producer: FakeProducer, content_type: str
) -> None:
    body = lines(user(1), user(2)) + b"\r\n  \n" + orjson.dumps(user(3))
    headers = {"Content-Type": content_type}
    answer = await client.post("/users/batch", data=body, headers=headers)
    assert (answer.status, await answer.json()) == (202, {"accepted": 3, "rejected": []})
    assert sent_ids(producer) == {b"u1", b"u2", b"u3"}


async def test_a_line_that_is_no_json_costs_only_itself(client: Client) -> None:
    body = lines(user(1)) + b'{"id": \n[1,\n2]\n' + lines(user(2))
    told = await (await client.post("/users/batch", data=body, headers=NDJSON)).json()
    assert told["accepted"] == 2
    assert [(row["index"], row["errors"][0]["detail"]) for row in told["rejected"]] == [
        (index, "The row is not JSON") for index in (1, 2, 3)
    ]


async def test_two_rows_in_a_line_are_none(client: Client, producer: FakeProducer) -> None:
    body = orjson.dumps(user(1)) + b"," + lines(user(2), user(3))
    told = await (await client.post("/users/batch", data=body, headers=NDJSON)).json()
    assert (told["accepted"], [row["index"] for row in told["rejected"]]) == (1, [0])
    assert sent_ids(producer) == {b"u3"}


async def test_a_stream_longer_than_any_body_is_accepted(
    client: Client, producer: FakeProducer
) -> None:
    async def rows() -> AsyncIterator[bytes]:
        for begin in range(0, 10_000, 100):
            yield lines(*map(user, range(begin, begin + 100)))

    answer = await client.post("/users/batch", data=rows(), headers=NDJSON)
    assert await answer.json() == {"accepted": 10_000, "rejected": []}
    assert len(sent_ids(producer)) == 10_000


async def test_no_more_is_read_than_may_wait(
    client: Client, producer: FakeProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK_ROWS", 10)
    producer.silent = True
    offered = 0

    async def rows() -> AsyncIterator[bytes]:
        nonlocal offered
        while True:
            offered += 1
            yield lines(*[{**user(offered), "padding": "x" * 1_000}] * 10)

    posting = asyncio.create_task(client.post("/users/batch", data=rows(), headers=NDJSON))
    async with asyncio.timeout(30):
        while not offered or len(producer.asked) < batches.MAX_CHUNKS_UNDER_WAY:
            await asyncio.sleep(0)
        before = -1
        while before != offered:
            before = offered
            await asyncio.wait([posting], timeout=0.2)
    # What the sockets hold of it has been offered, and is not read.
    assert len(producer.asked) == batches.MAX_CHUNKS_UNDER_WAY
    posting.cancel()
    producer.give_up()


@pytest.mark.parametrize("headers", [NDJSON, {"Content-Type": "application/json"}])
async def test_too_many_bad_rows_end_the_request_and_all_before_them_count(
    client: Client, producer: FakeProducer, headers: Mapping[str, str]
) -> None:
    rows: list[object] = [
        user(1),
        *[0] * (batches.MAX_REJECTED + 1),
        *[user(2)] * batches.CHUNK_ROWS,
    ]
    body = lines(*rows) if headers is NDJSON else orjson.dumps(rows)
    answer = await client.post("/users/batch", data=body, headers=headers)
    told = await answer.json()
    assert (answer.status, told["type"].rpartition(":")[2]) == (422, "too-many-rejected")
    assert told["accepted"] >= 1
    assert batches.MAX_REJECTED <= len(told["rejected"]) < 2 * batches.CHUNK_ROWS
    assert told["settled_rows"] % batches.CHUNK_ROWS == 0
    assert b"u1" in sent_ids(producer)


@pytest.mark.parametrize("pieces", [1, 7, 4_096, 100_000])
async def test_each_line_stands_alone_however_it_comes(
    client: Client, producer: FakeProducer, pieces: int
) -> None:
    one, two = orjson.dumps(user(1)), orjson.dumps(user(2))
    body = b"\n".join(
        [
            b"\xef\xbb\xbf" + one + b"\r",
            one + b"," + two,  # two on one line
            b'{"id": "u3",',  # one over two lines
            b'"name": "Ada", "email": "u3@example.com"}',
            orjson.dumps({**user(4), "padding": "x" * 20_000}),
            b"",
            orjson.dumps(user(5)),
        ]
    )

    async def slowly() -> AsyncIterator[bytes]:
        for begin in range(0, len(body), pieces):
            yield body[begin : begin + pieces]

    answer = await client.post("/users/batch", data=slowly(), headers=NDJSON)
    told = await answer.json()
    assert (answer.status, told["accepted"]) == (202, 2), told
    assert [row["index"] for row in told["rejected"]] == [1, 2, 3, 4]
    assert told["rejected"][3]["errors"][0]["detail"] == "The row has more than 16384 bytes"
    assert sent_ids(producer) == {b"u1", b"u5"}


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"[", "application/json", 400),
        (b'{"id": "u1"}', "application/json", 422),
        (b"[]", "text/plain", 415),
        (b"x" * 100_000, "application/json", 413),
    ],
)
async def test_what_is_no_batch_is_refused(
    client: Client, body: bytes, content_type: str, status: int
) -> None:
    answer = await client.post("/users/batch", data=body, headers={"Content-Type": content_type})
    assert (answer.status, answer.content_type) == (status, "application/problem+json")


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (BrokerUnavailableError("no broker"), "broker-unavailable"),
        (OutcomeUnknownError("no acknowledgement"), "outcome-unknown"),
        (OutcomeOpenError("no fence"), "outcome-open"),
        (StaleRequestError("too old"), "stale-request"),
        (OverloadedError("too much waits"), "overloaded"),
    ],
)
async def test_a_failure_tells_how_far_it_came(
    client: Client,
    producer: FakeProducer,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    kind: str,
) -> None:
    monkeypatch.setattr(batches, "CHUNK_ROWS", 2)
    producer.failures_from = (4, failure)
    answer = await client.post("/users/batch", json=[user(n) for n in range(10)])
    told = await answer.json()
    assert (answer.status, told["type"].rpartition(":")[2]) == (503, kind)
    assert (told["accepted"], told["settled_rows"], answer.headers["Retry-After"]) == (4, 4, "1")


@pytest.mark.parametrize("others", [BrokerUnavailableError("away"), OutcomeUnknownError("late")])
async def test_what_may_still_land_is_told_whatever_else_has_failed(
    client: Client,
    producer: FakeProducer,
    monkeypatch: pytest.MonkeyPatch,
    others: Exception,
) -> None:
    monkeypatch.setattr(batches, "CHUNK_ROWS", 2)
    failures = [others, OutcomeOpenError("no fence"), others]
    send = producer.send

    def fail(records: Mapping[int, Sequence[ToWrite]]) -> Mapping[int, Offsets]:
        producer.failure = failures.pop(0)
        return send(records)

    monkeypatch.setattr(producer, "send", fail)
    answer = await client.post("/users/batch", json=[user(n) for n in range(6)])
    told = await answer.json()
    assert told["type"].rpartition(":")[2] == "outcome-open"
    assert "look before you retry" in told["detail"]


async def test_lines_are_divided_one_request_after_the_other(
    client: Client, producer: FakeProducer
) -> None:
    """Many that hold nothing but line ends would hold up all others together."""
    async with client.app[TURN]:
        sending = asyncio.create_task(
            client.post("/users/batch", data=lines(user(1)), headers=NDJSON)
        )
        # Meanwhile others are served.
        for _ in range(20):
            assert (await client.get("/health/live")).status == 200
        assert (producer.sent, sending.done()) == ([], False)
    assert (await sending).status == 202


SHORT_ROWS = (b"", b" ", b"\r", b"{}", b"{}\r", b"{},{}", b"1", BOM_UTF8, BOM_UTF8 + b"{}\r")
LONG_ROWS = [byte * size + b"{}" for byte in (b" ", b"x") for size in (16_382, 16_383, 20_000)]
ROWS = st.sampled_from([*SHORT_ROWS, *LONG_ROWS])


@hypothesis_settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(ROWS, max_size=5), st.lists(st.integers(0, 60_000), max_size=6))
def test_lines_are_the_same_however_packets_fall(rows: list[bytes], cuts: list[int]) -> None:
    body = b"\n".join(rows)
    places = sorted({min(cut, len(body)) for cut in cuts})

    async def read(*places: int) -> list[object]:
        begins = (0, *places)
        parts = [body[a:b] for a, b in zip(begins, (*places, len(body)), strict=True) if a < b]

        async def parts_of(_: object) -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(batches, "parts_of", parts_of)
            patched.setattr(batches, "turn", lambda _: nullcontext())
            lines = [line async for some in batches._lines(cast(Any, None)) for line in some]
        return [line if len(line) <= batches.MAX_ROW_BYTES else "too long" for line in lines]

    whole = asyncio.run(read())
    for chosen in (places, range(20_000, len(body), 20_000), range(3, len(body), 4_096)):
        assert asyncio.run(read(*chosen)) == whole
    plain = [rows[0].removeprefix(BOM_UTF8), *rows[1:]] if rows else []
    shown = [row if len(row) <= batches.MAX_ROW_BYTES else "too long" for row in plain]
    assert whole == [row for row in shown if isinstance(row, str) or row.strip()]


# -- other rows than registrations, and a receipt for each

UPDATE = {"type": "update", "id": "ada", "name": "B", "ifVersion": 2}
ERASURE = {"type": "erase", "id": "eve"}


async def test_rows_may_be_updates_and_erasures(client: Client, producer: FakeProducer) -> None:
    only_erasure_of_one = {"type": "erase", "id": "bob", "ifVersion": 1}
    rows = [user(1), UPDATE, ERASURE, only_erasure_of_one, {**user(2), "type": "registration"}]
    answer = await client.post("/users/batch", json=rows)
    assert await answer.json() == {"accepted": 5, "rejected": []}
    values = {key: value and orjson.loads(value) for _, _, key, value in producer.sent}
    assert values == {
        b"u1": user(1),
        b"ada": UPDATE,
        b"eve": None,
        b"bob": only_erasure_of_one,
        b"u2": user(2),
    }


@pytest.mark.parametrize(
    ("row", "pointer"),
    [
        ({"type": "update", "id": "ada"}, ""),
        ({"type": "update", "id": "ada", "name": ""}, "/name"),
        ({"type": "erase"}, "/id"),
        ({"type": "erase", "id": "ada", "ifVersion": 0}, "/ifVersion"),
        ({"type": "rename", "id": "ada", "name": "B", "email": "b@x.co"}, "/type"),
        ({"type": [], "id": "ada", "name": "B", "email": "b@x.co"}, "/type"),
    ],
)
async def test_a_row_of_a_type_is_valid_by_that(client: Client, row: object, pointer: str) -> None:
    told = await (await client.post("/users/batch", json=[user(1), row])).json()
    ((wrong,),) = ([each["errors"] for each in told["rejected"]],)
    assert (told["accepted"], [each["pointer"] for each in wrong]) == (1, [pointer])


RECEIPTS = "/users/batch?receipts=1"


async def receipts_of(answer: Any) -> list[dict[str, Any]]:
    """Return the lines of an answer."""
    assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
    return [orjson.loads(line) for line in (await answer.read()).splitlines()]


async def test_each_row_has_a_receipt(
    client: Client, producer: FakeProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK_ROWS", 2)
    body = lines(user(1), UPDATE) + b"nonsense\n" + lines(ERASURE, {"id": "u2"})
    told = await receipts_of(await client.post(RECEIPTS, data=body, headers=NDJSON))
    assert [each["index"] for each in told] == [0, 1, 2, 3, 4]
    assert [each.get("id") for each in told] == ["u1", "ada", None, "eve", None]
    assert [len(each["position"]) for each in told if "position" in each] == [20, 20, 20]
    assert [[error["pointer"] for error in each.get("errors", [])] for each in told] == [
        [],
        [],
        [""],
        [],
        ["/name", "/email"],
    ]
    assert await receipts_of(await client.post(RECEIPTS, data=b"", headers=NDJSON)) == []


async def test_receipts_come_while_rows_are_sent(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK_ROWS", 1)
    seen = asyncio.Event()

    async def rows() -> AsyncIterator[bytes]:
        for number in range(batches.MAX_CHUNKS_UNDER_WAY):
            yield lines(user(number))
        async with asyncio.timeout(10):
            await seen.wait()
        yield lines(user(99))

    async with client.post(RECEIPTS, data=rows(), headers=NDJSON) as answer:
        first = orjson.loads(await answer.content.readline())
        seen.set()
        rest = [orjson.loads(line) async for line in answer.content]
    assert [first["id"], *(each["id"] for each in rest)] == ["u0", "u1", "u2", "u3", "u99"]


async def test_what_the_broker_does_not_take_costs_only_itself(
    client: Client, producer: FakeProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK_ROWS", 2)
    send, failures = producer.send, [None, BrokerUnavailableError("away"), None]

    def fail(records: Mapping[int, Sequence[ToWrite]]) -> Mapping[int, Offsets]:
        producer.failure = failures.pop(0)
        return send(records)

    monkeypatch.setattr(producer, "send", fail)
    answer = await client.post(RECEIPTS, json=[user(n) for n in range(6)])
    told = await receipts_of(answer)
    assert ["position" in each for each in told] == [True, True, False, False, True, True]
    assert {each["problem"]["type"].rpartition(":")[2] for each in told[2:4]} == {
        "broker-unavailable"
    }


async def test_receipts_end_with_why_no_more_is_read(client: Client) -> None:
    rows = [user(1), *[0] * (batches.MAX_REJECTED + 1), *[user(2)] * batches.CHUNK_ROWS]
    told = await receipts_of(await client.post(RECEIPTS, json=rows))
    assert told[0]["id"] == "u1"
    assert told[-1].keys() == {"problem"}
    assert told[-1]["problem"]["type"].endswith(":too-many-rejected")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [(RECEIPTS, b"{", 400), (RECEIPTS, b"{}", 422), ("/users/batch?receipts=yes", b"[]", 400)],
)
async def test_what_fails_before_the_first_row_is_a_problem(
    client: Client, path: str, body: bytes, status: int
) -> None:
    answer = await client.post(path, data=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
