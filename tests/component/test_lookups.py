"""Lookups over HTTP: by id, by email, after a write, and what became of a write."""

import pytest

from app.domain.counts import Count
from app.domain.outcomes import Outcome
from app.domain.positions import Position
from app.query.counting import Counted
from app.query.worker_client import FORWARDED_HEADER
from app.web.api.lookups import STALE_HEADER
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups

POSITION = Position(3, 7)


async def test_a_user_is_found_by_email(client: Client, lookups: FakeLookups) -> None:
    user = lookups.add("ada", email="ada+x@example.com")
    answer = await client.get("/users", params={"email": "ada+x@example.com"})
    assert (answer.status, await answer.read()) == (200, user.encode())


@pytest.mark.parametrize("address", ["/users/ada", "/users?id=ada", "/users?email=ada@example.com"])
async def test_a_user_has_a_tag_and_is_not_sent_twice(
    client: Client, lookups: FakeLookups, address: str
) -> None:
    user = lookups.add("ada")
    first = await client.get(address)
    tag = first.headers["ETag"]
    assert tag == f'"1-{user.position}"'
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await client.get(address, headers={"If-None-Match": known})
        assert (again.status, again.headers["ETag"], await again.read()) == (304, tag, b"")
    lookups.users["ada"] = user.model_copy(update={"version": 2, "position": POSITION.token()})
    changed = await client.get(address, headers={"If-None-Match": tag})
    assert (changed.status, changed.headers["ETag"]) == (200, f'"2-{POSITION.token()}"')


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("ids", ["eve", "nobody", "ada", "eve"]),
        ("emails", ["eve@x.co", "no@x.co", "ada@x.co", "eve@x.co"]),
    ],
)
async def test_many_are_looked_up_in_their_order(
    client: Client, lookups: FakeLookups, by: str, names: list[str]
) -> None:
    ada, eve = (lookups.add(each, email=f"{each}@x.co") for each in ("ada", "eve"))
    answer = await client.post("/users/lookup", json={by: names})
    found = (await answer.json())["users"]
    expected = [eve, None, ada, eve]
    assert [each and each["id"] for each in found] == [each and each.id for each in expected]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"ids": ["a"], "emails": ["a@x.co"]}, 422),
        ({"ids": ["a"] * 1_001}, 422),
        ({"ids": ["a\n"]}, 422),
        ({"emails": ["none"]}, 422),
        ({"id": ["a"]}, 422),
        ([], 422),
        ({"ids": []}, 200),
        ({"ids": ["a"] * 1_000}, 200),
    ],
)
async def test_what_may_be_looked_up_at_once(client: Client, body: object, status: int) -> None:
    answer = await client.post("/users/lookup", json=body)
    assert answer.status == status, await answer.text()


async def test_of_many_nobody_is_told_to_be_missing_who_cannot_be_looked_up(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.ready = False
    answer = await client.post("/users/lookup", json={"ids": ["ada"]})
    assert (answer.status, (await answer.json())["cause"]) == (503, "recovering")


async def test_a_settled_user_has_another_tag_than_one_that_waits(
    client: Client, lookups: FakeLookups
) -> None:
    user = lookups.add("ada")
    settled = (await client.get("/users/ada")).headers["ETag"]
    lookups.users["ada"] = user.model_copy(update={"status": "pending"})
    assert (await client.get("/users/ada")).headers["ETag"] != settled


async def test_a_copy_that_may_be_old_has_no_tag(client: Client, lookups: FakeLookups) -> None:
    lookups.users["ada"] = lookups.add("ada").stale(1.5)
    answer = await client.get("/users/ada", headers={"If-None-Match": "*"})
    assert (answer.status, "ETag" in answer.headers) == (200, False)


async def test_an_address_that_nobody_has_is_a_404(client: Client) -> None:
    answer = await client.get("/users", params={"email": "nobody@example.com"})
    assert answer.status == 404
    assert "nobody@" not in await answer.text()


@pytest.mark.parametrize(
    "query", ["?email=", "?email=nonsense", "?id=a&email=a@example.com", "?id="]
)
async def test_a_lookup_of_nothing_is_refused(client: Client, query: str) -> None:
    answer = await client.get(f"/users{query}")
    assert (answer.status, answer.content_type) == (400, "application/problem+json")


@pytest.mark.parametrize("address", ["/users/ada?", "/users?id=ada&", "/users?email=a@b.example&"])
async def test_a_lookup_can_be_after_a_write(
    client: Client, lookups: FakeLookups, address: str
) -> None:
    lookups.add("ada", email="a@b.example")
    answer = await client.get(f"{address}after={POSITION.token()}")
    assert (answer.status, lookups.asked_after) == (200, [POSITION])


async def test_a_malformed_position_is_refused(client: Client) -> None:
    answer = await client.get("/users/ada?after=garbage")
    assert (answer.status, answer.content_type) == (400, "application/problem+json")
    assert (await client.get("/registrations/garbage")).status == 400


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome.PENDING, {"outcome": "pending"}),
        (Outcome.REGISTERED, {"outcome": "registered"}),
        (Outcome.EMAIL_TAKEN, {"outcome": "rejected", "reason": "email-taken"}),
        (Outcome.UNKNOWN_ID, {"outcome": "rejected", "reason": "unknown-id"}),
        (Outcome.TOO_MANY_PENDING, {"outcome": "rejected", "reason": "too-many-pending"}),
        (Outcome.DEAD_LETTER, {"outcome": "dead-letter"}),
    ],
)
async def test_a_position_tells_what_became_of_its_write(
    client: Client, lookups: FakeLookups, outcome: Outcome, told: dict[str, str]
) -> None:
    lookups.outcomes[POSITION] = outcome
    answer = await client.get(f"/registrations/{POSITION.token()}")
    assert (answer.status, await answer.json()) == (200, {"position": POSITION.token(), **told})


async def test_a_position_of_no_write_is_a_404(client: Client) -> None:
    answer = await client.get(f"/registrations/{Position(3, 10_000).token()}")
    assert (answer.status, answer.content_type) == (404, "application/problem+json")


@pytest.mark.parametrize("wait", ["-1", "soon", "nan"])
async def test_a_wait_that_is_no_time_is_refused(client: Client, wait: str) -> None:
    answer = await client.get(f"/registrations/{POSITION.token()}?wait={wait}")
    assert answer.status == 400


async def test_waiting_for_an_outcome_has_a_limit(client: Client, lookups: FakeLookups) -> None:
    await client.get(f"/registrations/{POSITION.token()}?wait=1000")
    await client.get(f"/registrations/{POSITION.token()}", headers={"Prefer": "wait=2"})
    assert lookups.waited == [10.0, 2.0]


async def test_a_copy_is_told_from_what_its_owner_says(
    client: Client, lookups: FakeLookups
) -> None:
    user = lookups.users["ada"] = lookups.add("ada").stale(1.23456)
    for path in ("/users/ada", f"/users?email={user.email}"):
        answer = await client.get(path)
        assert (answer.status, answer.headers[STALE_HEADER]) == (200, "1.235")
        assert (await answer.json())["stale_seconds"] == 1.235
    lookups.add("ada")
    answer = await client.get("/users/ada")
    assert STALE_HEADER not in answer.headers
    assert "stale_seconds" not in await answer.json()


async def test_who_holds_an_address_is_told_to_workers_only(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.holders = {"some/key==": "ada"}
    assert (await client.get("/email-holders/some%2Fkey%3D%3D")).status == 404
    headers = {FORWARDED_HEADER: "1"}
    answer = await client.get("/email-holders/some%2Fkey%3D%3D", headers=headers)
    assert await answer.json() == {"id": "ada", "stale_seconds": 0.0}
    answer = await client.get("/email-holders/other", headers=headers)
    assert await answer.json() == {"id": None, "stale_seconds": 0.0}


async def test_the_newest_come_in_pages(client: Client, lookups: FakeLookups) -> None:
    for number in range(5):
        lookups.add(f"user-{5 - number}")
    found: list[str] = []
    query = "limit=2"
    for _ in range(3):
        told = await (await client.get(f"/registrations?{query}")).json()
        found += [user["id"] for user in told["users"]]
        query = f"limit=2&cursor={told.get('next')}"
    assert found == [f"user-{5 - number}" for number in range(5)]
    assert "next" not in told
    lookups.missing = [3]
    told = await (await client.get("/registrations")).json()
    assert (len(told["users"]), told["missing_partitions"]) == (5, [3])
    for wrong in ("limit=0", "limit=x", "cursor=x"):
        answer = await client.get(f"/registrations?{wrong}")
        assert (answer.status, answer.content_type) == (400, "application/problem+json")


async def test_users_are_counted_in_all_and_by_day(client: Client, lookups: FakeLookups) -> None:
    answer = await client.get("/counts")
    assert await answer.json() == {"users": 0, "days": {}}
    lookups.add("ada")
    lookups.add("bob")
    answer = await client.get("/counts")
    assert await answer.json() == {"users": 2, "days": {"2023-11-14": 2}}
    assert STALE_HEADER not in answer.headers
    lookups.stale_seconds = 2.5
    answer = await client.get(f"/counts?after={POSITION.token()}")
    assert (await answer.json())["stale_seconds"] == 2.5
    assert answer.headers[STALE_HEADER] == "2.500"
    assert lookups.asked_after[-1] == POSITION


async def test_another_worker_is_told_the_counts_of_each_partition(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.add("ada")
    answer = await client.get("/counts", headers={FORWARDED_HEADER: "1"})
    assert Counted.decode(await answer.read()).by_partition == {
        0: Count(1, {"2023-11-14": 1}),
        1: Count(),
    }


async def test_what_cannot_be_counted_is_not_told(client: Client, lookups: FakeLookups) -> None:
    lookups.ready = False
    answer = await client.get("/counts")
    assert (answer.status, (await answer.json())["cause"]) == (503, "recovering")
