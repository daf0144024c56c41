"""Behind proxies everything that a client is told leads to where it reached them."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from yarl import URL

from app.web.http.proxies import TRUSTED_PROXIES, address_of, base_url, is_same_site
from tests.component.access import ADA, SECRET, add_key, serving
from tests.component.fakes import FakeLookups, FakeProducer

PAGE = {"Accept": "text/html"}
OUTSIDE = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Host": "users.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/registry",
}
#: An address of ours on a page that lacks what stands before it.
_BARE = re.compile(r'(?:href|src|action|url)="?=?/(?!registry[/"])')


def asked(trusted: int, headers: Mapping[str, str]) -> web.Request:
    """Return a request that came through so many proxies that are trusted."""
    app = web.Application()
    app[TRUSTED_PROXIES] = trusted
    return make_mocked_request("GET", "/", headers={"Host": "inside:6066", **headers}, app=app)


ADDRESSES = {
    "203.0.113.9": "203.0.113.9",
    "203.0.113.9:4711": "203.0.113.9",
    "2001:db8::9": "2001:db8::9",
    "[2001:db8::9]": "2001:db8::9",
    "[2001:DB8::9]:4711": "2001:db8::9",
    "198.51.100.1, 203.0.113.9:1": "203.0.113.9",
    # What tells no address: that of the connection counts.
    **dict.fromkeys(["", "unknown", "_hidden", "[::1", "203.0.113.9:x", "1.2.3", "[]:1"], None),
}


@pytest.mark.parametrize(("told", "address"), ADDRESSES.items())
def test_a_client_is_where_the_proxy_saw_it(told: str, address: str | None) -> None:
    own = asked(0, {}).remote or ""
    assert address_of(asked(1, {"X-Forwarded-For": told})) == (address or own)
    assert address_of(asked(0, {"X-Forwarded-For": told})) == own
    # A second proxy has added the first one's address.
    assert address_of(asked(2, {"X-Forwarded-For": f"{told}, 10.0.0.1"})) == (address or own)


BASES = [
    (0, OUTSIDE, "http://inside:6066"),
    (1, {}, "http://inside:6066"),
    (1, OUTSIDE, "https://users.example/registry"),
    (1, {"X-Forwarded-Host": "users.example:443", "X-Forwarded-Proto": "HTTPS"},
     "https://users.example"),
    (1, {"X-Forwarded-Host": "users.example:443"}, "http://users.example:443"),
    (1, {"X-Forwarded-Host": "[::1]:80"}, "http://[::1]"),
    (1, {"Host": "inside:80"}, "http://inside"),
    (1, {"X-Forwarded-Prefix": "/a/b/"}, "http://inside:6066/a/b"),
    # Of a list, the first of the trusted proxies counts, not what a client sent itself.
    (1, {"X-Forwarded-Host": "evil.example, users.example"}, "http://users.example"),
    (2, {"X-Forwarded-Host": "evil.example, users.example, inner"}, "http://users.example"),
    (2, {"X-Forwarded-Host": "users.example"}, "http://users.example"),
    # What is no host or no path is ignored.
    (1, {"X-Forwarded-Host": "a b"}, "http://inside:6066"),
    (1, {"X-Forwarded-Host": "u@evil.example"}, "http://inside:6066"),
    *((1, {"X-Forwarded-Prefix": prefix}, "http://inside:6066")
      for prefix in ("//evil.example", "/", "a", "/a//b", "/..", "/a/../b", '/"', "/a?b", "/<b>")),
]  # fmt: skip


@pytest.mark.parametrize(("trusted", "headers", "base"), BASES)
def test_where_a_client_reaches_us(trusted: int, headers: Mapping[str, str], base: str) -> None:
    assert base_url(asked(trusted, headers)) == base


@pytest.mark.parametrize(
    ("origin", "host", "is_same"),
    [
        ("http://a.example", "a.example", True),
        ("http://a.example", "a.example:80", True),
        ("https://a.example:443", "A.example", True),
        ("https://a.example", "a.example:443", True),
        ("http://a.example:81", "a.example", False),
        ("https://a.example", "a.example:80", False),
        ("null", "a.example", False),
        ("http://[", "a.example", False),
        ("http://b.example", "a.example", False),
    ],
)
def test_a_default_port_is_none(origin: str, host: str, is_same: bool) -> None:
    assert is_same_site(asked(0, {"Host": host}), origin) is is_same


async def test_pages_redirects_and_the_description_lead_there(
    producer: FakeProducer, lookups: FakeLookups
) -> None:
    for number in range(60):
        lookups.add(f"user-{number}")
    async with serving(producer, lookups, trusted_proxies=1) as client:
        for path in ("/", "/users", "/users/user-1", "/register", "/docs", "/users/nobody", "/x"):
            text = await (await client.get(path, headers=OUTSIDE | PAGE)).text()
            assert 'data-at="/registry"' in text
            assert "/registry/static/" in text
            assert not _BARE.search(text), _BARE.findall(text)
        text = await (await client.get("/users/user-1", headers=OUTSIDE | PAGE)).text()
        assert "https://users.example/registry/users/user-1" in text
        described = await (await client.get("/openapi.json", headers=OUTSIDE)).json()
        assert described["servers"] == [{"url": "https://users.example/registry"}]
        answer = await client.post("/users", json=ADA, headers=OUTSIDE)
        assert answer.headers["Location"].startswith("/registry/registrations/")
        origin = {"Origin": "https://users.example"}
        sent = {"data": ADA, "headers": OUTSIDE | origin, "allow_redirects": False}
        answer = await client.post("/register", **sent)  # type: ignore[arg-type]
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/registry/users/ada?after=")
        text = await (
            await client.get(
                URL(answer.headers["Location"].removeprefix("/registry"), encoded=True),
                headers=OUTSIDE | PAGE,
            )
        ).text()
        assert not _BARE.search(text), _BARE.findall(text)


async def test_untrusted_headers_change_nothing(
    producer: FakeProducer, lookups: FakeLookups
) -> None:
    async with serving(producer, lookups) as client:
        assert "registry/static" not in await (await client.get("/", headers=OUTSIDE | PAGE)).text()
        answer = await client.post("/users", json=ADA, headers=OUTSIDE)
        assert answer.headers["Location"].startswith("/registrations/")
        described = await (await client.get("/openapi.json", headers=OUTSIDE)).json()
        assert described["servers"] == [{"url": str(client.make_url("")).rstrip("/")}]


async def test_a_login_leads_back_below_the_prefix(
    producer: FakeProducer, lookups: FakeLookups, tmp_path: Path
) -> None:
    keys_file = tmp_path / "keys.json"
    key = add_key(keys_file, "read")
    settings = {"keys_file": keys_file, "email_secret": SECRET, "trusted_proxies": 1}
    async with serving(producer, lookups, **settings) as client:
        text = await (await client.get("/users", headers=OUTSIDE | PAGE)).text()
        assert 'action="/registry/login"' in text
        assert 'value="/users"' in text
        sent = {"key": key, "next": "/users"}
        answer = await client.post("/login", data=sent, headers=OUTSIDE, allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/registry/users")
        assert "Secure" in answer.headers["Set-Cookie"]
