"""Scripts of other sites: those that are named may call, over REST and tRPC; others may not."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from aiohttp import ClientResponse

from app.web.http import headers
from tests.component.access import ADA, SECRET, add_key, bearer, serving
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer

SITE = "https://app.example"
OTHER = "https://evil.example"


async def preflight(client: Client, path: str, origin: str = SITE) -> ClientResponse:
    """Return the answer to what a browser asks before it sends JSON with a key."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,trpc-accept",
    }
    return await client.options(path, headers=headers)


def allowed(headers: Mapping[str, str]) -> str | None:
    """Return the origin whose scripts may read an answer."""
    assert "Access-Control-Allow-Credentials" not in headers
    return headers.get("Access-Control-Allow-Origin")


@pytest.mark.parametrize(
    "path", ["/users", "/users/ada", "/trpc/registerUser", "/trpc/a,b?batch=1"]
)
async def test_a_preflight_is_answered_without_a_key(
    producer: FakeProducer, lookups: FakeLookups, tmp_path: Path, path: str
) -> None:
    keys_file = tmp_path / "keys.json"
    key = add_key(keys_file, "write")
    async with serving(
        producer, lookups, cors_origins=SITE, keys_file=keys_file, email_secret=SECRET
    ) as client:
        answer = await preflight(client, path)
        assert (answer.status, allowed(answer.headers)) == (204, SITE)
        names = answer.headers["Access-Control-Allow-Headers"].split(", ")
        assert {"authorization", "content-type", "trpc-accept", "prefer"} <= set(names)
        assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
        assert int(answer.headers["Access-Control-Max-Age"]) > 0
        answer = await client.post("/users", json=ADA, headers=bearer(key) | {"Origin": SITE})
        assert (answer.status, allowed(answer.headers)) == (202, SITE)
        assert "Location" in answer.headers["Access-Control-Expose-Headers"]


async def test_errors_can_be_read_too(producer: FakeProducer, lookups: FakeLookups) -> None:
    async with serving(producer, lookups, cors_origins=f"{SITE}, {OTHER}") as client:
        for path in ("/users/nobody", "/nothing", "/trpc/nothing", "/registrations/garbage"):
            answer = await client.get(path, headers={"Origin": SITE})
            assert answer.status >= 400
            assert allowed(answer.headers) == SITE
            assert "Origin" in answer.headers["Vary"]


async def test_streams_can_be_read_too(producer: FakeProducer, lookups: FakeLookups) -> None:
    headers = {"Origin": SITE, "trpc-accept": "application/jsonl"}
    async with serving(producer, lookups, cors_origins=SITE) as client:
        answer = await client.get("/trpc/hello?batch=1&input={}", headers=headers)
        assert (answer.status, allowed(answer.headers)) == (200, SITE)
        assert "trpc-accept" in answer.headers["Vary"]


async def test_other_sites_may_not(producer: FakeProducer, lookups: FakeLookups) -> None:
    async with serving(producer, lookups, cors_origins=SITE) as client:
        assert (await preflight(client, "/users", OTHER)).status == 405
        for origin in (OTHER, "null", f"{SITE}.evil.example", f"{SITE}:8443"):
            answer = await client.get("/users", headers={"Origin": origin})
            assert allowed(answer.headers) is None
            assert "Origin" in answer.headers["Vary"]


async def test_all_sites_may_if_it_says_so(
    producer: FakeProducer, lookups: FakeLookups, tmp_path: Path
) -> None:
    key = add_key(tmp_path / "keys.json", "read")
    asks = {"keys_file": tmp_path / "keys.json", "email_secret": SECRET}
    async with serving(producer, lookups, cors_origins="*", **asks) as client:
        assert allowed((await preflight(client, "/trpc/hello", OTHER)).headers) == "*"
        answer = await client.get("/users", headers=bearer(key) | {"Origin": OTHER})
        assert allowed(answer.headers) == "*"
        assert "Origin" not in answer.headers["Vary"]


async def test_it_is_off_unless_set(client: Client) -> None:
    assert (await preflight(client, "/users")).status == 405
    assert allowed((await client.get("/users", headers={"Origin": SITE})).headers) is None


async def test_scripts_may_send_and_read_all_that_is_listed(
    producer: FakeProducer, lookups: FakeLookups
) -> None:
    lookups.users["ada"] = lookups.add("ada").stale(2)
    async with serving(producer, lookups, cors_origins=SITE) as client:
        sent = (await preflight(client, "/users")).headers["Access-Control-Allow-Headers"]
        assert sent.split(", ") == [name.lower() for name in headers.READ]
        given = {"Origin": SITE, "X-Request-Id": "r-1"}
        answer = await client.get("/users/ada", headers=given)
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert exposed == [*headers.SET]
        for name in ("X-Request-Id", "Registry-Stale-Seconds"):
            assert name in exposed
            assert name in answer.headers


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/users", {"GET", "HEAD", "POST"}),
        ("/users/ada", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("/trpc/hello", {"GET", "HEAD"}),
        ("/trpc/registerUser", {"POST"}),
        ("/export", {"GET", "HEAD"}),
        ("/", {"GET", "HEAD"}),
        ("/events", {"GET", "HEAD"}),
    ],
)
@pytest.mark.parametrize("origins", ["", SITE])
async def test_options_without_cors_tells_what_is_allowed(
    producer: FakeProducer, lookups: FakeLookups, origins: str, path: str, allowed: set[str]
) -> None:
    settings = {"cors_origins": origins} if origins else {}
    async with serving(producer, lookups, **settings) as client:
        for given in ({}, {"Origin": OTHER}, {"Content-Type": "text/plain"}):
            answer = await client.options(path, headers=given)
            assert answer.status == 405
            assert allowed <= set(answer.headers["Allow"].replace(" ", "").split(","))
