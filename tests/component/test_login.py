"""Sessions of people: begun with a key, ended with it, and forms that no other site can send."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from http.cookies import Morsel
from pathlib import Path

import pytest
from aiohttp import ClientResponse, FormData
from yarl import URL

from app.access.files import read_keys, write_keys
from app.access.sessions import Sessions
from app.web.auth.access import ACCESS, COOKIE
from app.web.auth.login import here_or_home
from tests.component.access import ADA, SECRET, add_key, bearer, serving
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """Return where the keys are."""
    return tmp_path / "keys.json"


@pytest.fixture
def key(keys_file: Path) -> str:
    """Return a key that reads and writes."""
    return add_key(keys_file, "read", "write", name="people")


@pytest.fixture
async def client(
    key: str, keys_file: Path, producer: FakeProducer, lookups: FakeLookups
) -> AsyncIterator[Client]:
    """Serve a registry that asks for keys; the client keeps cookies."""
    lookups.add("ada", name="Ada King")
    async with serving(producer, lookups, keys_file=keys_file, email_secret=SECRET) as opened:
        yield opened


async def log_in(client: Client, key: str, **more: str) -> ClientResponse:
    """Send the form."""
    form = {"key": key, **more}
    return await client.post("/login", data=form, headers=BROWSER, allow_redirects=False)


async def token_on(client: Client, path: str) -> str:
    """Return the token in the forms of a page."""
    text = await (await client.get(path, headers=BROWSER)).text()
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', text)
    assert found is not None
    return found[1]


async def cookie_of(client: Client, key: str) -> Morsel[str]:
    """Return the cookie that a log-in sets."""
    return (await log_in(client, key)).cookies[COOKIE]


async def test_a_stranger_is_shown_the_form_and_led_back(client: Client, key: str) -> None:
    answer = await client.get(URL("/users/ada?x=%2F", encoded=True), headers=BROWSER)
    text = await answer.text()
    assert answer.status == 401
    assert "Ada King" not in text
    assert 'name="next" value="/users/ada?x=%2F"' in text
    answer = await log_in(client, key, next="/users/ada?x=%2F")
    assert (answer.status, answer.headers["Location"]) == (303, "/users/ada?x=%2F")
    answer = await client.get("/users/ada", headers=BROWSER)
    assert "Ada King" in await answer.text()


async def test_the_cookie_is_kept_from_scripts_and_does_not_hold_the_key(
    client: Client, key: str
) -> None:
    cookie = await cookie_of(client, key)
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert int(cookie["max-age"]) == 12 * 3600
    assert not cookie["secure"]
    assert key.removeprefix("registry_key_") not in cookie.value


async def test_a_cookie_given_over_https_stays_there(
    keys_file: Path, key: str, producer: FakeProducer, lookups: FakeLookups
) -> None:
    async with serving(
        producer, lookups, keys_file=keys_file, email_secret=SECRET, trusted_proxies=1
    ) as client:
        headers = {"X-Forwarded-Proto": "https"}
        answer = await client.post(
            "/login", data={"key": key}, headers=headers, allow_redirects=False
        )
        assert answer.cookies[COOKIE]["secure"]


async def test_a_wrong_key_is_told(client: Client) -> None:
    answer = await log_in(client, "registry_key_wrong", next="/register")
    text = await answer.text()
    assert (answer.status, COOKIE in answer.cookies) == (401, False)
    assert "not known" in text
    assert 'value="/register"' in text
    assert "registry_key_wrong" not in text


async def test_a_form_needs_the_token_of_its_session(
    client: Client, key: str, producer: FakeProducer
) -> None:
    await log_in(client, key)
    token = await token_on(client, "/register")
    foreign = Sessions(b"another secret", 12)
    for wrong in ({}, {"csrf": ""}, {"csrf": "é"}, {"csrf": foreign.token("x")}):
        answer = await client.post("/register", data=ADA | wrong, headers=BROWSER)
        assert (answer.status, answer.content_type) == (403, "text/html")
    assert producer.sent == []
    answer = await client.post("/register", data=ADA | {"csrf": token}, allow_redirects=False)
    assert answer.status == 303
    assert len(producer.sent) == 1


async def test_a_form_with_a_mistake_keeps_its_token(client: Client, key: str) -> None:
    await log_in(client, key)
    token = await token_on(client, "/register")
    bad = ADA | {"email": "nonsense", "csrf": token}
    answer = await client.post("/register", data=bad, headers=BROWSER)
    assert answer.status == 422
    assert token in await answer.text()


async def test_a_token_is_of_no_use_in_another_session(client: Client, key: str) -> None:
    await log_in(client, key)
    token = await token_on(client, "/register")
    sessions = client.app[ACCESS].sessions
    client.session.cookie_jar.clear()
    client.session.cookie_jar.update_cookies({COOKIE: sessions.begin("0" * 16)})
    assert (await client.post("/register", data=ADA | {"csrf": token})).status == 401


async def test_a_form_that_comes_too_slowly_is_cut_off(
    keys_file: Path, key: str, producer: FakeProducer, lookups: FakeLookups
) -> None:
    async with serving(
        producer, lookups, keys_file=keys_file, email_secret=SECRET, slow_client_seconds=1
    ) as client:
        host = f"Host: {client.host}:{client.port}"
        kind = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 99"
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(f"POST /login HTTP/1.1\r\n{host}\r\n{kind}\r\n\r\nkey=".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("path", ["/login", "/register", "/logout"])
@pytest.mark.parametrize("charset", ["", "; charset=nope", "; charset=latin-1"])
@pytest.mark.parametrize("body", [b"key=\xff", b"key=%FF&csrf=%ff&next=%FF", b"=&&;;", b""])
async def test_no_form_is_an_error_of_ours(
    client: Client, key: str, path: str, charset: str, body: bytes
) -> None:
    headers = {"Content-Type": f"application/x-www-form-urlencoded{charset}", **bearer(key)}
    answer = await client.post(path, data=body, headers=headers)
    assert answer.status < 500


@pytest.mark.parametrize("path", ["/login", "/register"])
@pytest.mark.parametrize(
    ("body", "status"), [(b"a&" * 20_000, 413), (b"a&" * 21, 400), (b"key=%FF", 400)]
)
async def test_a_form_is_small_and_has_few_fields(
    client: Client, key: str, path: str, body: bytes, status: int
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", **bearer(key)}
    assert (await client.post(path, data=body, headers=headers)).status == status


async def test_a_form_with_files_is_an_empty_one(client: Client, key: str) -> None:
    form = FormData({"key": key}, default_to_multipart=True)
    answer = await client.post("/login", data=form)
    assert (answer.status, COOKIE in answer.cookies) == (401, False)


async def test_logging_out_ends_the_session(client: Client, key: str) -> None:
    await log_in(client, key)
    token = await token_on(client, "/")
    assert (await client.post("/logout", headers=BROWSER)).status == 403
    answer = await client.post("/logout", data={"csrf": token}, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert (await client.get("/", headers=BROWSER)).status == 401


async def test_revoking_the_key_ends_its_sessions(
    client: Client, key: str, keys_file: Path
) -> None:
    await log_in(client, key)
    assert (await client.get("/users/ada")).status == 200
    write_keys(keys_file, ())
    client.app[ACCESS].ring._next_look = 0.0
    assert (await client.get("/users/ada")).status == 401
    # A new key by the same name does not bring them back.
    add_key(keys_file, "read", "write", name="people")
    client.app[ACCESS].ring._next_look = 0.0
    assert (await client.get("/users/ada")).status == 401


async def test_a_session_ends_by_itself(client: Client, keys_file: Path) -> None:
    begun = Sessions(SECRET.encode(), 12).begin(read_keys(keys_file)[0].id)
    client.session.cookie_jar.update_cookies({COOKIE: begun})
    assert (await client.get("/users/ada")).status == 200
    assert Sessions(SECRET.encode(), hours=-1).key_id(begun) is None


@pytest.mark.parametrize("forged", ["", "x", "a.b.c", "ImFiYyI.aaaa.bbbb", "é.b.c"])
async def test_a_forged_cookie_is_nobody(client: Client, keys_file: Path, forged: str) -> None:
    client.session.cookie_jar.update_cookies({COOKIE: forged})
    assert (await client.get("/users/ada")).status == 401
    other = Sessions(b"another secret", 12).begin(read_keys(keys_file)[0].id)
    client.session.cookie_jar.update_cookies({COOKIE: other})
    assert (await client.get("/users/ada")).status == 401


async def test_a_session_writes_by_forms_only(
    client: Client, key: str, producer: FakeProducer
) -> None:
    await log_in(client, key)
    assert (await client.post("/users", json=ADA)).status == 401
    assert (await client.post("/trpc/registerUser", json=ADA)).status == 401
    assert (await client.delete("/users/ada")).status == 401
    assert producer.sent == []


async def test_a_session_may_what_its_key_may(client: Client, keys_file: Path) -> None:
    reads = add_key(keys_file, "read")
    client.app[ACCESS].ring._next_look = 0.0
    await log_in(client, reads)
    token = await token_on(client, "/register")
    answer = await client.post("/register", data=ADA | {"csrf": token}, headers=BROWSER)
    assert (answer.status, answer.content_type) == (403, "text/html")
    assert "lacks the scope write" in await answer.text()
    assert (await client.get("/dead-letters", headers=BROWSER)).status == 403


async def test_another_site_logs_nobody_in_or_out(client: Client, key: str) -> None:
    headers = {"Origin": "http://evil.example"}
    for path in ("/login", "/logout"):
        answer = await client.post(path, data={"key": key}, headers=headers)
        assert (answer.status, COOKIE in answer.cookies) == (403, False)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "users",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/.//evil.example",
        "/x/..//evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "@evil.example",
        "/\r\nSet-Cookie: a=b",
        "/é",
    ],
)
async def test_a_log_in_leads_to_no_other_site(client: Client, key: str, target: str) -> None:
    assert here_or_home(target) == "/"
    answer = await log_in(client, key, next=target)
    assert answer.headers["Location"] == "/"


@pytest.mark.parametrize("target", ["/", "/register", "/users?id=..", "/users/a%2Fb?after=x//y"])
def test_a_log_in_leads_back(target: str) -> None:
    assert here_or_home(target) == target


async def test_every_page_of_a_session_can_end_it(client: Client, key: str) -> None:
    await log_in(client, key)
    for path in ("/", "/register", "/users/ada", "/users/nobody", "/nothing"):
        await token_on(client, path)
    assert "REGISTRY_KEY" in await (await client.get("/users/ada", headers=BROWSER)).text()
