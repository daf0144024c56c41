"""Lists of users over REST and tRPC."""

from typing import Any

import orjson
import pytest
from yarl import URL

from app.domain.positions import Position
from app.query.listing import cursor_after
from app.query.worker_client import FORWARDED_HEADER
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups

IDS = ["ada", "adb", "b", "c"]


@pytest.fixture
def lookups() -> FakeLookups:
    """Return lookups of some users."""
    found = FakeLookups()
    for user_id in reversed(IDS):
        found.add(user_id, email=f"{user_id}@example.com")
    return found


async def listed(client: Client, query: str, **headers: str) -> dict[str, Any]:
    """Return a list over REST."""
    answer = await client.get(f"/users{query}", headers=headers)
    assert (answer.status, answer.content_type) == (200, "application/json")
    body: dict[str, Any] = await answer.json()
    return body


async def asked(client: Client, given: str) -> tuple[int, Any]:
    """Return status and answer of a list over tRPC."""
    answer = await client.get("/trpc/listUsers", params={"input": given})
    body = await answer.json()
    return answer.status, body.get("result", body.get("error"))["data"]


def ids(users: list[dict[str, Any]]) -> list[str]:
    """Return the ids of users."""
    return [user["id"] for user in users]


async def test_all_users_are_listed_from_the_beginning(
    client: Client, lookups: FakeLookups
) -> None:
    body = await listed(client, "")
    assert body == {"users": [orjson.loads(lookups.users[key].encode()) for key in IDS]}


async def test_a_page_says_where_the_next_one_begins(client: Client) -> None:
    first = await listed(client, "?limit=3")
    assert ids(first["users"]) == IDS[:3]
    last = await listed(client, f"?limit=3&cursor={first['next']}")
    assert (ids(last["users"]), "next" in last) == (IDS[3:], False)


async def test_a_list_by_prefix(client: Client) -> None:
    assert ids((await listed(client, "?prefix=ad"))["users"]) == IDS[:2]
    for prefix in ("nobody", "%00"):
        assert await listed(client, f"?prefix={prefix}") == {"users": []}


async def test_a_list_can_be_after_a_write(client: Client, lookups: FakeLookups) -> None:
    position = Position(1, 2)
    await listed(client, f"?after={position.token()}")
    answer = await client.get(
        "/trpc/listUsers?input={}", headers={"Registry-After": position.token()}
    )
    assert (answer.status, lookups.asked_after) == (200, [position, position])


async def test_other_workers_are_told_of_which_partitions_a_list_is(client: Client) -> None:
    body = await listed(client, "?limit=1", **{FORWARDED_HEADER: "1"})
    assert (ids(body["users"]), body["partitions"]) == (IDS[:1], [0, 1])
    assert "partitions" not in await listed(client, "")


@pytest.mark.parametrize(
    "query",
    [
        "?limit=0",
        "?limit=1001",
        "?limit=-1",
        "?limit=ten",
        "?limit=",
        "?limit=1e2",
        "?limit=%D9%A1",
        f"?limit={'9' * 5000}",
        "?cursor=",
        "?cursor=%FF",
        "?cursor=not*one",
        f"?prefix={'x' * 129}",
        "?after=garbage",
    ],
)
async def test_what_is_wrong_with_a_list_is_told(client: Client, query: str) -> None:
    answer = await client.get(URL(f"/users{query}", encoded=True))
    assert (answer.status, answer.content_type) == (400, "application/problem+json")


async def test_no_list_is_told_while_tables_move(client: Client, lookups: FakeLookups) -> None:
    lookups.ready = False
    answer = await client.get("/users")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (await answer.json())["type"] == "urn:user-registry:problem:not-ready"
    assert (await asked(client, "{}"))[1]["code"] == "SERVICE_UNAVAILABLE"


async def test_an_infinite_query_follows_cursors_to_the_end(client: Client) -> None:
    given = '{"limit":3,"cursor":%s,"direction":"forward"}'
    status, first = await asked(client, given % "null")
    assert (status, ids(first["items"])) == (200, IDS[:3])
    status, last = await asked(client, given % f'"{first["nextCursor"]}"')
    assert (status, ids(last["items"]), "nextCursor" in last) == (200, IDS[3:], False)


async def test_users_are_listed_by_prefix_over_trpc(client: Client) -> None:
    assert ids((await asked(client, '{"prefix":"ad"}'))[1]["items"]) == IDS[:2]
    assert ids((await asked(client, "{}"))[1]["items"]) == IDS


@pytest.mark.parametrize(
    "given",
    [
        '{"limit":0}',
        '{"limit":101}',
        '{"limit":"1"}',
        '{"limit":1.5}',
        '{"cursor":7}',
        '{"cursor":"*"}',
        '{"direction":"backward"}',
        '{"prefix":null}',
        "null",
    ],
)
async def test_an_input_that_lists_nothing_is_a_bad_request(client: Client, given: str) -> None:
    status, data = await asked(client, given)
    assert (status, data["code"]) == (400, "BAD_REQUEST")


def test_a_cursor_does_not_show_what_it_means() -> None:
    assert "ada" not in cursor_after("ada")
