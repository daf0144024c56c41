"""What bodies may take in memory, all of them together."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.web.http import bodies, room
from tests.component.conftest import Client

ROW = b'{"id":"ada","name":"Ada","email":"ada@example.com"}'
LARGE = b"[" + b",".join([ROW] * 500) + b"]"
JSON = {"Content-Type": "application/json"}


#: Of one client it is half: a body that comes in chunks, for that counts as the largest.
COMING_BYTES = 2 * 64 * 1024
PARSED_BYTES = 2 * bodies.PARSED_TIMES * len(LARGE)


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WAIT_SECONDS", 0.05)
    monkeypatch.setitem(room.SIZES, room.COMING, COMING_BYTES)
    monkeypatch.setitem(room.SIZES, room.PARSED, PARSED_BYTES)


async def slowly(parts: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield a large body, the end of it when it is told to."""
    yield LARGE[:-1]
    await parts.wait()
    yield LARGE[-1:]


async def test_large_bodies_that_come_slowly_keep_out_others_of_their_kind_alone(
    client: Client,
) -> None:
    coming = client.app[room.COMING]
    goes_on = asyncio.Event()

    async def upload() -> int:
        answer = await client.post("/users/batch", data=slowly(goes_on), headers=JSON)
        return answer.status

    first = asyncio.create_task(upload())
    async with asyncio.timeout(30):
        while coming._left == COMING_BYTES:
            await asyncio.sleep(0.001)
    second = await client.post("/users/batch", data=LARGE, headers=JSON)
    assert (second.status, second.headers["Retry-After"]) == (503, "1")
    assert (await second.json())["type"] == "urn:user-registry:problem:overloaded"
    small = await client.post("/users/batch", data=b"[" + ROW + b"]", headers=JSON)
    assert small.status == 202
    goes_on.set()
    assert await first == 202
    again = await client.post("/users/batch", data=LARGE, headers=JSON)
    assert again.status == 202


async def test_what_bodies_are_parsed_to_is_bounded_until_they_are_answered(
    client: Client,
) -> None:
    parsed = client.app[room.PARSED]
    async with parsed.take("address:127.0.0.1", PARSED_BYTES // 2):
        refused = await client.post("/users/batch", data=LARGE, headers=JSON)
        stream = await client.post(
            "/users/batch", data=ROW, headers={"Content-Type": "application/x-ndjson"}
        )
    assert (refused.status, stream.status) == (503, 503)
    taken = await client.post("/users/batch", data=LARGE, headers=JSON)
    assert taken.status == 202
    assert parsed._left == PARSED_BYTES


async def test_of_a_form_no_more_is_read_than_a_form_has(client: Client) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"a=" + b"b" * 1_022 + b"&"

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await client.post("/register", data=endless(), headers=headers)
    assert answer.status == 413
    assert f"at most {bodies.MAX_FORM_BYTES} bytes" in await answer.text()
