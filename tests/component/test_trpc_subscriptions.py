"""Subscriptions over tRPC: events, ids, and those who follow too much or read nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from app.domain.errors import LostOutcomesError
from app.domain.positions import Position
from app.web.trpc import subscriptions
from app.web.trpc.subscriptions import PLACES, STOPPED
from tests.component.access import SECRET, add_key, bearer, serving
from tests.component.conftest import Client
from tests.component.fakes import FakeFeed, FakeLookups, FakeProducer

Event = dict[str, Any]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "LOOK_SECONDS", 0.01)


class Followed:
    """What a client is told, event by event."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def next(self, *, also_pings: bool = False) -> Event:
        """Return the next event."""
        event: Event = {}
        async with asyncio.timeout(10):
            while line := (await self.answer.content.readline()).rstrip(b"\n"):
                name, _, value = line.decode().partition(": ")
                event[name] = value
        if event.get("event") == "ping" and not also_pings:
            return await self.next()
        if event.get("data"):
            event["data"] = orjson.loads(event["data"])
        return event

    async def ends(self) -> bool:
        """Return whether nothing more comes."""
        async with asyncio.timeout(10):
            return not await self.answer.content.read()


@asynccontextmanager
async def following(
    client: Client, path: str, given: Any = None, **more: Any
) -> AsyncIterator[Any]:
    """Follow something while the context lasts."""
    query = "" if given is None else f"?input={quote(orjson.dumps(given).decode())}"
    async with client.get(f"/trpc/{path}{query}", **more) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        followed = Followed(answer)
        connected = await followed.next()
        assert connected["event"] == "connected"
        assert connected["data"] == {"reconnectAfterInactivityMs": subscriptions.RECONNECT_MS}
        yield followed


async def test_a_user_is_followed(client: Client, lookups: FakeLookups) -> None:
    async with following(client, "user", {"id": "ada"}) as followed:
        assert await followed.next() == {"data": None, "id": "nobody"}
        ada = lookups.add("ada")
        told = await followed.next()
        assert told == {"data": orjson.loads(ada.encode()), "id": f"1-{ada.position}"}
        changed = {"version": 2, "name": "B", "position": Position(1, 2).token()}
        lookups.users["ada"] = ada.model_copy(update=changed)
        assert (await followed.next())["data"]["name"] == "B"
        del lookups.users["ada"]
        assert (await followed.next())["data"] is None


async def test_who_connects_again_is_not_told_what_it_knows(
    client: Client, lookups: FakeLookups
) -> None:
    ada = lookups.add("ada")
    known = f"1-{ada.position}"
    for more in (
        {"headers": {"Last-Event-ID": known}},
        {"given": {"id": "ada", "lastEventId": known}},
    ):
        given = {"given": {"id": "ada"}} | more
        async with following(client, "user", **given) as followed:
            lookups.users["ada"] = ada.model_copy(update={"version": 2})
            assert (await followed.next())["data"]["version"] == 2
            lookups.users["ada"] = ada


async def test_what_a_copy_says_or_nobody_knows_is_no_change(
    client: Client, lookups: FakeLookups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "PING_SECONDS", 0.05)
    ada = lookups.add("ada")
    async with following(client, "user", {"id": "ada"}) as followed:
        assert (await followed.next())["data"]["version"] == 1
        lookups.users["ada"] = ada.model_copy(update={"version": 2}).stale(1.0)
        assert (await followed.next(also_pings=True))["event"] == "ping"
        lookups.ready = False
        assert (await followed.next(also_pings=True))["event"] == "ping"
        lookups.users["ada"] = ada.model_copy(update={"version": 3})
        lookups.ready = True
        assert (await followed.next())["data"]["version"] == 3


def outcome(number: int) -> dict[str, object]:
    """Return an outcome as the feed tells it."""
    return {"id": f"u{number}", "position": Position(0, number).token(), "outcome": "registered"}


async def test_outcomes_are_followed_and_a_reconnect_misses_none(
    client: Client, feed: FakeFeed
) -> None:
    feed.outcomes = [outcome(0)]
    async with following(client, "outcomes") as followed:
        assert (await followed.next(also_pings=True))["event"] == "ping"
        feed.outcomes += [outcome(1), outcome(2)]
        first = await followed.next()
        assert first == {"data": outcome(1), "id": "2"}
        assert (await followed.next())["data"] == outcome(2)
    again = {"headers": {"Last-Event-ID": first["id"]}}
    async with following(client, "outcomes", **again) as followed:
        assert (await followed.next())["data"] == outcome(2)
    async with asyncio.timeout(10):
        while feed.open:
            await asyncio.sleep(0.01)


async def test_outcomes_that_are_gone_are_told_so(client: Client, feed: FakeFeed) -> None:
    feed.failure = LostOutcomesError("outcomes that were not read yet are gone")
    async with following(client, "outcomes", {"lastEventId": "0"}) as followed:
        told = await followed.next()
        assert told["event"] == "serialized-error"
        assert told["data"]["data"] == {
            "code": "NOT_FOUND",
            "httpStatus": 410,
            "reason": "outcomes-gone",
            "path": "outcomes",
        }
        assert await followed.ends()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "user", 400),
        ("GET", 'user?input={"id":""}', 400),
        ("GET", "user?input={", 400),
        ("POST", "user", 405),
        ("GET", "user,outcomes?batch=1", 400),
        ("GET", "hello,user?batch=1", 400),
    ],
)
async def test_what_is_no_subscription_is_an_error(
    client: Client, method: str, path: str, status: int
) -> None:
    headers = {"Content-Type": "application/json"} if method == "POST" else {}
    answer = await client.request(method, f"/trpc/{path}", headers=headers)
    assert answer.status == status, await answer.text()
    assert "error" in await answer.json(content_type=None)


async def test_nobody_follows_more_than_may(client: Client) -> None:
    client.app[PLACES].most_of_client = 1
    async with following(client, "user", {"id": "ada"}):
        refused = await client.get('/trpc/user?input={"id":"ada"}')
        assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
    async with asyncio.timeout(10):
        while client.app[PLACES].taken:
            await asyncio.sleep(0.01)
    async with following(client, "user", {"id": "ada"}) as followed:
        client.app[STOPPED].set()
        await followed.next()
        assert await followed.ends()


async def test_a_key_that_looks_users_up_follows_one_and_not_all(
    tmp_path: Any, producer: FakeProducer, lookups: FakeLookups
) -> None:
    key = add_key(tmp_path / "keys.json", "lookup")
    async with serving(
        producer, lookups, keys_file=tmp_path / "keys.json", email_secret=SECRET
    ) as client:
        async with following(client, "user", {"id": "ada"}, headers=bearer(key)):
            pass
        assert (await client.get("/trpc/outcomes", headers=bearer(key))).status == 403
        assert (await client.get('/trpc/user?input={"id":"ada"}')).status == 401
