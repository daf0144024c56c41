"""Keys: who may do what, route by route, and how those are told who may not."""

import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import ANY, AsyncMock

import pytest
from yarl import URL

from app.access import ring
from app.access.files import read_keys, write_keys
from app.access.keys import new_key
from app.access.proofs import Proofs, derived
from app.access.scopes import Scope
from app.config.settings import Settings
from app.domain.errors import Unavailable
from app.domain.outcomes import Outcome
from app.query.partition_query import Found, Question, _ask
from app.query.worker_client import FORWARDED_HEADER, Asking, origin_of
from app.web.auth import access
from app.web.auth.access import ACCESS
from tests.component.access import ADA, SECRET, add_key, bearer, serving
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer

READ, WRITE, ADMIN = "read", "write", "admin"
NEEDED = [
    ("GET", "/users/ada", READ),
    ("HEAD", "/users/ada", READ),
    ("GET", "/users", READ),
    ("GET", "/registrations", READ),
    ("GET", "/", READ),
    ("GET", "/register", READ),
    ("GET", "/trpc/hello", READ),
    ("GET", "/nothing", READ),
    ("POST", "/users", WRITE),
    ("POST", "/users/batch", WRITE),
    ("PATCH", "/users/ada", WRITE),
    ("DELETE", "/users/ada", WRITE),
    ("POST", "/register", WRITE),
    ("POST", "/trpc/registerUser", WRITE),
    ("POST", "/trpc/userById", WRITE),
    ("GET", "/dead-letters", ADMIN),
]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """Return a file with a key of each scope."""
    return tmp_path / "keys.json"


@pytest.fixture
def keys(keys_file: Path) -> dict[str, str]:
    """Return a key of each scope, by the scope."""
    return {scope: add_key(keys_file, scope) for scope in (READ, WRITE, ADMIN)}


@pytest.fixture
async def client(
    keys: dict[str, str], keys_file: Path, producer: FakeProducer, lookups: FakeLookups
) -> AsyncIterator[Client]:
    """Serve a registry that asks for keys."""
    lookups.add("ada")
    async with serving(producer, lookups, keys_file=keys_file, email_secret=SECRET) as opened:
        yield opened


@pytest.mark.parametrize(("method", "path", "needed"), NEEDED)
async def test_a_route_needs_its_scope_and_no_other(
    client: Client, keys: dict[str, str], method: str, path: str, needed: str
) -> None:
    # The stand-ins have no dead letters to show.
    scopes = [READ, WRITE] if needed == ADMIN else [READ, WRITE, ADMIN]
    for scope in scopes:
        answer = await client.request(method, path, headers=bearer(keys[scope]))
        assert (answer.status == 403) == (scope not in {needed, ADMIN}), (scope, answer.status)
    for headers in (
        {},
        bearer("registry_key_unknown"),
        bearer(""),
        {"Authorization": "Basic eA=="},
    ):
        answer = await client.request(method, path, headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    ["/health/live", "/health/ready", "/static/registry.css", "/login", "/openapi.json", "/docs"],
)
async def test_some_routes_are_open(client: Client, path: str) -> None:
    assert (await client.get(path)).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/..%2Fusers/ada",
        "/static/../users/ada",
        "/health/%2e%2e/users/ada",
        "/login/../users/ada",
        "/docs/../users/ada",
    ],
)
async def test_no_spelling_of_a_path_gets_around_a_key(client: Client, path: str) -> None:
    answer = await client.get(URL(path, encoded=True))
    assert answer.status in {401, 403, 404}
    assert "ada@example.com" not in await answer.text()


#: The smallest scope that each request needs, and what else it is enough for.
SMALL = [
    ("GET", "/metrics", "metrics", {READ}),
    ("GET", "/metrics/targets", "metrics", {READ}),
    ("GET", "/users/ada", "lookup", {READ}),
    ("HEAD", "/users/ada", "lookup", {READ}),
    ("GET", "/users?id=ada", "lookup", {READ}),
    ("GET", "/users?email=ada@example.com", "lookup", {READ}),
    ("GET", "/registrations/AQAAAAAAAAAAAAAAAAAA", "lookup", {READ}),
    ("GET", "/trpc/hello", "lookup", {READ}),
    ("GET", "/trpc/userById,userByEmail?batch=1", "lookup", {READ}),
    ("GET", "/export", "export", {READ}),
    ("DELETE", "/users/ada", "erase", {WRITE}),
    ("DELETE", "/users?id=ada", "erase", {WRITE}),
    ("POST", "/trpc/eraseUser", "erase", {WRITE}),
    ("POST", "/erase", "erase", {WRITE}),
    ("POST", "/edit", WRITE, set()),
    ("GET", "/edit?id=ada", "lookup", {READ}),
    ("GET", "/erase?id=ada", "lookup", {READ}),
    ("POST", "/trpc/eraseUser,eraseUser?batch=1", "erase", {WRITE}),
    ("GET", "/trpc/registration", "lookup", {READ}),
    ("POST", "/users/lookup", "lookup", {READ}),
    ("GET", "/users", READ, set()),
    ("GET", "/users?prefix=a", READ, set()),
    ("GET", "/trpc/listUsers", READ, set()),
    ("GET", "/trpc/userById,listUsers?batch=1", READ, set()),
    ("GET", "/trpc/userById%2ClistUsers?batch=1", READ, set()),
    ("GET", "/registrations", READ, set()),
    ("GET", "/counts", READ, set()),
    ("GET", "/trpc/countUsers", READ, set()),
    ("HEAD", "/events", READ, set()),
    ("GET", "/", READ, set()),
    ("POST", "/trpc/eraseUser,registerUser?batch=1", WRITE, set()),
    ("POST", "/trpc/registerUser%2CeraseUser?batch=1", WRITE, set()),
    ("POST", "/trpc/updateUser", WRITE, set()),
    ("PATCH", "/users/ada", WRITE, set()),
    ("POST", "/users", WRITE, set()),
    ("POST", "/trpc/userById", WRITE, set()),
    ("GET", "/dead-letters", ADMIN, set()),
]


@pytest.mark.parametrize(("method", "path", "needed", "sets"), SMALL)
async def test_a_small_scope_allows_what_it_says_and_nothing_else(
    client: Client, keys_file: Path, method: str, path: str, needed: str, sets: set[str]
) -> None:
    client.app[ACCESS].ring._next_look = 0.0
    given = {scope: add_key(keys_file, scope, name=f"only-{scope}") for scope in Scope}
    for scope, key in given.items():
        if scope == needed == ADMIN:
            continue  # the stand-ins have no dead letters to show
        answer = await client.request(method, encoded(path), headers=bearer(key))
        assert (answer.status == 403) == (scope not in {needed, ADMIN, *sets}), (scope, path)


async def test_who_may_not_write_registers_no_sample_users(
    client: Client, keys: dict[str, str], producer: FakeProducer, lookups: FakeLookups
) -> None:
    lookups.users.clear()
    for scope, status in ((READ, 403), (WRITE, 303)):
        answer = await client.post("/samples", headers=bearer(keys[scope]), allow_redirects=False)
        assert (answer.status, len(producer.sent)) == (status, 1_000 if status == 303 else 0)


async def test_a_write_key_sees_no_row_of_others(
    client: Client, keys: dict[str, str], lookups: FakeLookups
) -> None:
    """What it sent is all that it is told, whatever has become of the user."""
    lookups.add("ada", name="Somebody Else", email="else@example.com")
    calls = [
        ("POST", Outcome.REGISTERED, 201, {"name": "Ada", "email": "ada@example.com"}),
        ("POST", Outcome.REPLAYED, 200, {"name": "Ada", "email": "ada@example.com"}),
        ("PATCH", Outcome.UPDATED, 200, {"name": "Ada"}),
        ("POST", Outcome.ID_TAKEN, 409, {}),
    ]
    for method, outcome, status, sent in calls:
        lookups.outcome_of_all = outcome
        path, body = ("/users", ADA) if method == "POST" else ("/users/ada", {"name": "Ada"})
        headers = bearer(keys[WRITE]) | {"Prefer": "wait=1"}
        answer = await client.request(method, path, json=body, headers=headers)
        assert answer.status == status
        told = await answer.json(content_type=None)
        assert "else" not in str(told).lower()
        if status < 300:
            assert told == {"id": "ada", "status": outcome.word, "position": ANY, **sent}
    headers = bearer(keys[ADMIN]) | {"Prefer": "wait=1"}
    lookups.outcome_of_all = Outcome.REPLAYED
    answer = await client.post("/users", json=ADA, headers=headers)
    assert (await answer.json())["email"] == "else@example.com"


async def test_a_key_may_have_a_rate_of_its_own(
    keys_file: Path, keys: dict[str, str], producer: FakeProducer, lookups: FakeLookups
) -> None:
    text, key = new_key("slow", frozenset({Scope.WRITE}), None, 0.01)
    write_keys(keys_file, (*read_keys(keys_file), key))
    async with serving(producer, lookups, keys_file=keys_file, email_secret=SECRET) as client:
        assert await _statuses(client, bearer(text)) == [202, 429]
        assert await _statuses(client, bearer(keys[WRITE])) == [202, 202]


async def test_metrics_tell_for_how_long_keys_were_not_used(
    client: Client, keys: dict[str, str]
) -> None:
    async def told() -> str:
        return await (await client.get("/metrics", headers=bearer(keys[ADMIN]))).text()

    before = await told()
    assert 'registry_key_unused_seconds{key="admin"}' in before
    assert 'registry_key_unused_seconds{key="read"}' not in before
    await client.get("/users/ada", headers=bearer(keys[READ]))
    assert 'registry_key_unused_seconds{key="read"}' in await told()


async def test_refusals_are_problems(client: Client, keys: dict[str, str]) -> None:
    answer = await client.get("/users/ada")
    assert answer.content_type == "application/problem+json"
    assert (await answer.json())["type"] == "urn:user-registry:problem:unauthorized"
    answer = await client.post("/users", json=ADA, headers=bearer(keys[READ]))
    assert (await answer.json())["type"] == "urn:user-registry:problem:forbidden"


async def test_refused_trpc_calls_are_told_in_its_own_form(
    client: Client, keys: dict[str, str]
) -> None:
    answer = await client.get("/trpc/hello")
    assert (await answer.json(content_type=None))["error"]["data"]["code"] == "UNAUTHORIZED"
    answer = await client.post("/trpc/registerUser", json=ADA, headers=bearer(keys[READ]))
    assert (await answer.json(content_type=None))["error"]["data"]["code"] == "FORBIDDEN"


async def test_nothing_is_written_without_a_key(client: Client, producer: FakeProducer) -> None:
    await client.post("/users", json=ADA)
    await client.post("/register", data=ADA)
    await client.post("/trpc/registerUser", json=ADA)
    assert producer.sent == []


async def test_the_scheme_may_be_written_in_any_case(client: Client, keys: dict[str, str]) -> None:
    headers = {"Authorization": f"bearer  {keys[READ]} "}
    assert (await client.get("/users/ada", headers=headers)).status == 200


async def test_keys_change_without_a_restart(
    client: Client, keys: dict[str, str], keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "LOOK_EVERY_SECONDS", 0.0)
    _look_now(client)
    added = add_key(keys_file, READ, name="later")
    assert (await client.get("/users/ada", headers=bearer(added))).status == 200
    write_keys(keys_file, ())
    assert (await client.get("/users/ada", headers=bearer(added))).status == 401
    assert (await client.get("/users/ada", headers=bearer(keys[READ]))).status == 401


async def test_a_worker_whose_keys_file_is_broken_is_not_ready(
    client: Client, keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "LOOK_EVERY_SECONDS", 0.0)
    _look_now(client)
    good = keys_file.read_bytes()
    keys_file.write_text("{")
    answer = await client.get("/health/ready")
    assert answer.status == 503
    assert "is not a file of keys" in str((await answer.json())["reasons"])
    keys_file.write_bytes(good)
    assert (await client.get("/health/ready")).status == 200


async def test_another_worker_reads_by_its_proof_alone(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.holders["key"] = "ada"
    for path in ("/users?id=ada&x=%2F", "/email-holders/key?caught_up=1", "/users?limit=1"):
        assert (await client.get(encoded(path), headers=proven(path))).status == 200
    assert (await client.get("/users?id=b", headers=proven("/users?id=ada"))).status == 401
    assert (await client.post("/users", json=ADA, headers=proven("/users"))).status == 401


@pytest.mark.parametrize(
    "path", ["/export", "/users/ada", "/", "/metrics", "/events", "/trpc/hello", "/dead-letters"]
)
async def test_a_proof_opens_only_what_workers_ask_each_other(client: Client, path: str) -> None:
    assert (await client.get(path, headers=proven(path))).status == 401


async def test_a_proof_for_another_worker_is_none(client: Client) -> None:
    path = "/users?id=ada"
    assert (await client.get(path, headers=proven(path, at="http://other:6066"))).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/users?id=nobody",
        "/users?prefix=&limit=1",
        "/registrations",
        "/registrations/AQAAAAAAAAAAAAAAAAAA?wait=0.000",
        "/email-holders/key?caught_up=0",
        "/counts",
        "/overview?here=1",
    ],
)
async def test_a_worker_of_another_version_is_told_nothing_false(client: Client, path: str) -> None:
    """Its proof names nobody: it is refused, which it takes for no answer, and never for a 404."""
    secret = derived(SECRET.encode(), "forwarded requests")
    minute = int(time() // 60)
    before = hmac.digest(secret, f"GET\n{path}\n{minute}".encode(), "sha256").hex()
    answer = await client.get(encoded(path), headers={FORWARDED_HEADER: before})
    assert answer.status == 401
    told = SimpleNamespace(ask=AsyncMock(return_value=(answer.status, await answer.read())))
    question: Question[object] = Question(0, lambda: None, path, lambda _, body: Found(body))
    cause = await _ask(cast(Any, told), "http://other:1", question, 1.0)
    assert cause is Unavailable.INCOMPATIBLE_ANSWER


async def test_secrets_are_changed_one_after_the_other(
    keys: dict[str, str], keys_file: Path, producer: FakeProducer, lookups: FakeLookups
) -> None:
    """First all accept the new one, then it signs, then the old one is gone."""
    old, new = "old-and-16-characters", "new-and-16-characters"
    path = "/users?limit=1"
    for secrets, status in ((f"{old},{new}", 200), (f"{new}, {old}", 200), (new, 401)):
        async with serving(
            producer, lookups, keys_file=keys_file, signing_secret=secrets
        ) as client:
            assert (await client.get(path, headers=proven(path, old))).status == status


@pytest.mark.parametrize("forged", ["1", "", "é", "0" * 64])
async def test_a_forged_proof_makes_nobody_a_worker(
    client: Client, keys: dict[str, str], forged: str
) -> None:
    headers = {FORWARDED_HEADER: forged}
    assert (await client.get("/users/ada", headers=headers)).status == 401
    with_key = headers | bearer(keys[READ])
    assert (await client.get("/email-holders/key", headers=with_key)).status == 404
    body = await (await client.get("/users", headers=with_key)).json()
    assert "partitions" not in body


async def test_a_proof_of_another_registry_is_none(client: Client) -> None:
    headers = proven("/users?id=ada", "another secret")
    assert (await client.get("/users?id=ada", headers=headers)).status == 401


async def test_rates_are_those_of_a_key(
    keys: dict[str, str], keys_file: Path, producer: FakeProducer, lookups: FakeLookups
) -> None:
    other = add_key(keys_file, WRITE, name="other")
    async with serving(
        producer,
        lookups,
        keys_file=keys_file,
        email_secret=SECRET,
        client_writes_per_second=0.01,
    ) as client:
        assert await _statuses(client, bearer(keys[WRITE])) == [202, 429]
        assert await _statuses(client, bearer(other)) == [202, 429]


async def test_behind_a_proxy_rates_are_those_of_addresses_it_saw(
    producer: FakeProducer, lookups: FakeLookups
) -> None:
    async with serving(
        producer, lookups, trusted_proxies=1, client_writes_per_second=0.01
    ) as client:
        for told in ("192.0.2.1", "spoofed, 192.0.2.2", "192.0.2.3,192.0.2.4"):
            assert await _statuses(client, {"X-Forwarded-For": told}) == [202, 429]
        assert await _statuses(client, {"X-Forwarded-For": "192.0.2.3, 192.0.2.4"}) == [429, 429]
        # Of whom the proxy says nothing legible, the address counts.
        assert await _statuses(client, {}) == [202, 429]
        assert await _statuses(client, {"X-Forwarded-For": "nobody"}) == [429, 429]


async def test_without_a_proxy_nobody_chooses_an_address(
    producer: FakeProducer, lookups: FakeLookups
) -> None:
    async with serving(producer, lookups, client_writes_per_second=0.01) as client:
        assert await _statuses(client, {"X-Forwarded-For": "192.0.2.1"}) == [202, 429]
        assert await _statuses(client, {"X-Forwarded-For": "192.0.2.2"}) == [429, 429]


async def test_rows_that_are_none_count_for_the_rate_of_their_client(
    producer: FakeProducer, lookups: FakeLookups
) -> None:
    async with serving(producer, lookups, client_writes_per_second=100) as client:
        headers = {"Content-Type": "application/x-ndjson"}
        answer = await client.post("/users/batch", data=b"0\n" * 250, headers=headers)
        assert answer.status == 202
        assert await _statuses(client, {}) == [429, 429]


async def test_without_a_keys_file_nothing_is_installed(
    producer: FakeProducer, lookups: FakeLookups
) -> None:
    async with serving(producer, lookups) as client:
        assert ACCESS not in client.app
        assert access.require_access not in client.app.middlewares
        assert (await client.get("/login")).status == 404
        assert (await client.get("/users", headers=bearer("any"))).status == 200


async def test_workers_without_keys_say_only_that_they_forward() -> None:
    headers = Asking.of(Settings()).headers("http://127.0.0.1", "/users/a%2Fb?x=1")
    assert headers[FORWARDED_HEADER] == "1"


def encoded(path: str) -> URL:
    """Return an address that the client leaves as it is."""
    return URL(path, encoded=True)


def proven(path: str, secret: str = SECRET, at: str = Settings().url) -> dict[str, str]:
    """Return the headers of another worker, which asks a worker at an address."""
    return Asking(Proofs(secret.encode())).headers(origin_of(at), path)


def _look_now(client: Client) -> None:
    client.app[ACCESS].ring._next_look = 0.0


async def _statuses(client: Client, headers: dict[str, str]) -> list[int]:
    answers = [await client.post("/users", json=ADA, headers=headers) for _ in range(2)]
    return [answer.status for answer in answers]
