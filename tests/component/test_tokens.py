"""JSON Web Tokens of an identity provider: which are accepted, and how its keys are kept up."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from app.access import tokens as tokens_module
from app.access.tokens import Tokens
from app.config.settings import Settings
from app.domain.errors import SettingsError
from app.web.auth.access import ACCESS
from tests.component.access import ADA, SECRET, bearer, serving
from tests.component.fakes import FakeLookups, FakeProducer

RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
SHORT_RSA = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
EC = ec.generate_private_key(ec.SECP256R1())
SHARED = "a secret that is shared, with 32 characters or more"


def jwk(key: Any, kid: str, **more: str) -> dict[str, object]:
    """Return a key as a provider shows it."""
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def jwks(*keys: dict[str, object]) -> str:
    """Return a set of keys."""
    return json.dumps({"keys": keys})


ALL = jwks(
    jwk(RSA, "rsa"),
    jwk(EC, "ec"),
    jwk(SHORT_RSA, "short"),
    jwk(OTHER_RSA, "for-encryption", use="enc"),
    {"kty": "oct", "kid": "shared", "k": "YSBzZWNyZXQ", "alg": "HS256"},
)


def token(
    key: Any = RSA, kid: str | None = "rsa", algorithm: str = "RS256", **claims: object
) -> str:
    """Return a token that would be accepted, but for what is said."""
    now = int(time.time())
    given = {"iss": "https://idp.example", "aud": "registry", "sub": "ci", "exp": now + 3_600}
    given |= {"iat": now, "scope": "openid read"} | claims
    payload = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(payload, key, algorithm, {} if kid is None else {"kid": kid})


def asked(folder: Path, source: str | None = None) -> dict[str, object]:
    """Return the settings of a registry that takes tokens."""
    path = folder / "jwks.json"
    if source is None:
        path.write_text(ALL)
    return {
        "keys_file": folder / "keys.json",
        "email_secret": SECRET,
        "jwt_jwks": source or str(path),
        "jwt_audience": "registry",
        "jwt_issuer": "https://idp.example",
    }


def tokens_of(folder: Path, **more: object) -> Tokens:
    """Return what finds tokens, by the keys of a file."""
    made = Tokens.of(Settings.model_validate({**asked(folder), **more}))
    assert made is not None
    return made


def hour_ago() -> int:
    """Return the time of an hour ago, as tokens tell it."""
    return int(time.time()) - 3_600


GOOD: list[Callable[[], str]] = [
    token,
    lambda: token(EC, "ec", "ES256"),
    lambda: token(scope=["read", "other"]),
    lambda: token(aud=["other", "registry"]),
]
BAD: list[Callable[[], str]] = [
    lambda: token(exp=hour_ago()),
    lambda: token(nbf=int(time.time()) + 3_600),
    lambda: token(exp=None),
    lambda: token(exp="never"),
    lambda: token(aud="other"),
    lambda: token(aud=None),
    lambda: token(iss="https://other.example"),
    lambda: token(iss=None),
    lambda: token(sub=None),
    lambda: token(OTHER_RSA),
    lambda: token(kid=None),
    lambda: token(kid="unknown"),
    lambda: token(algorithm="RS512"),
    lambda: token(SHORT_RSA, "short"),
    lambda: token(OTHER_RSA, "for-encryption"),
    lambda: token(SHARED, "shared", "HS256"),
    lambda: token(SHARED, "rsa", "HS256"),
    lambda: token(None, "rsa", "none"),
    lambda: token(scope="openid profile"),
    lambda: token(scope=None),
    lambda: token(scope={"read": True}),
    lambda: token(more="x" * 10_000),
    lambda: token()[:-4],
    lambda: token() + "x" * 4,
    lambda: "a.b.c",
    lambda: "..",
    lambda: "é.é.é",
]


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_tokens_of_the_provider_for_this_audience_are_accepted(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path)
    for good in GOOD:
        for _ in range(2):
            key = tokens.find(good())
            assert key is not None
            assert (key.name, {scope.value for scope in key.scopes}) == ("jwt-ci", {"read"})


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("bad", BAD)
def test_others_are_not(tmp_path: Path, bad: Callable[[], str]) -> None:
    tokens = tokens_of(tmp_path)
    assert tokens.find(token()) is not None
    assert tokens.find(bad()) is None


def test_a_subject_that_may_be_personal_is_hashed(tmp_path: Path) -> None:
    key = tokens_of(tmp_path).find(token(sub="ada@example.com"))
    assert key is not None
    assert key.name.startswith("jwt-")
    assert "ada" not in key.name


def test_a_token_ends_also_if_it_is_remembered(tmp_path: Path) -> None:
    tokens, text = tokens_of(tmp_path), token()
    key = tokens.find(text)
    assert key is not None
    (hashed,) = tokens._known
    tokens._known[hashed] = key.model_copy(update={"expires_at": key.created_at.replace(year=2020)})
    assert tokens.find(text) is None


def test_keys_that_are_gone_end_their_tokens(tmp_path: Path) -> None:
    tokens, text = tokens_of(tmp_path), token()
    assert tokens.find(text) is not None
    tokens.take(jwks(jwk(EC, "ec")).encode())
    assert tokens.find(text) is None
    tokens.take(jwks(jwk(OTHER_RSA, "rsa")).encode())
    assert tokens.find(text) is None


async def test_both_lanes_take_tokens_beside_keys(
    tmp_path: Path, producer: FakeProducer, lookups: FakeLookups
) -> None:
    lookups.add("ada")
    async with serving(producer, lookups, **asked(tmp_path)) as client:
        reads, writes = bearer(token()), bearer(token(scope="write"))
        assert (await client.get("/users/ada", headers=reads)).status == 200
        assert (await client.get("/users?id=ada", headers=reads)).status == 200
        assert (await client.post("/users", json=ADA, headers=reads)).status == 403
        assert (await client.post("/users", json=ADA, headers=writes)).status == 202
        assert (await client.get("/users/ada", headers=bearer(token(aud="x")))).status == 401
        assert (await client.get("/users/ada", headers=bearer("unknown"))).status == 401


async def test_a_file_that_cannot_be_read_is_told_and_ends_tokens_after_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, producer: FakeProducer, lookups: FakeLookups
) -> None:
    monkeypatch.setattr(tokens_module, "FILE_SECONDS", 0.01)
    lookups.add("ada")
    settings = asked(tmp_path)
    async with serving(producer, lookups, **settings) as client:
        (tmp_path / "jwks.json").write_text('{"keys": []}')

        async def reasons() -> str:
            return str(await (await client.get("/health/ready")).json())

        async with asyncio.timeout(30):
            while "JWT_JWKS: holds no key" not in await reasons():
                await asyncio.sleep(0.01)
            assert (await client.get("/users/ada", headers=bearer(token()))).status == 200
            monkeypatch.setattr(tokens_module, "TRUST_FILE_SECONDS", 0.0)
            assert (await client.get("/users/ada", headers=bearer(token()))).status == 401
            monkeypatch.setattr(tokens_module, "TRUST_FILE_SECONDS", 60.0)
            (tmp_path / "jwks.json").write_text(ALL)
            while "JWT_JWKS" in await reasons():
                await asyncio.sleep(0.01)
            assert (await client.get("/users/ada", headers=bearer(token()))).status == 200
    assert client.app[ACCESS].tokens is not None


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (web.Response(text=ALL), None),
        (web.Response(status=302, headers={"Location": "/elsewhere"}), "answers 302"),
        (web.Response(status=500), "answers 500"),
        (web.Response(text=" " * 300_000), "more than keys"),
        (web.Response(text="[]"), "holds no key"),
        (web.Response(text='{"keys": {"a": 1}}'), "holds no key"),
    ],
)
async def test_keys_are_read_from_an_address(
    tmp_path: Path,
    producer: FakeProducer,
    lookups: FakeLookups,
    answer: web.Response,
    told: str | None,
) -> None:
    async def answers(_: web.Request) -> web.Response:
        return answer

    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(text=ALL)

    provider = web.Application()
    provider.router.add_get("/jwks", answers)
    provider.router.add_get("/elsewhere", elsewhere)
    lookups.add("ada")
    async with TestServer(provider) as server:
        source = str(server.make_url("/jwks"))
        async with serving(producer, lookups, **asked(tmp_path, source)) as client:
            async with asyncio.timeout(30):
                while True:
                    reasons = str(await (await client.get("/health/ready")).json())
                    if "not read yet" not in reasons:
                        break
                    await asyncio.sleep(0.01)
            assert (told or "'ready'") in reasons
            status = (await client.get("/users/ada", headers=bearer(token()))).status
            assert status == (200 if told is None else 401)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"jwt_audience": None}, "JWT_JWKS, JWT_AUDIENCE, JWT_ISSUER: set all of them or none"),
        ({"jwt_jwks": "http://idp.example/jwks"}, "JWT_JWKS: must be https"),
        ({"keys_file": None}, "JWT_JWKS: needs KEYS_FILE"),
    ],
)
def test_a_wrong_setting_is_told(tmp_path: Path, more: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Settings.model_validate({**asked(tmp_path), **more})


def test_a_file_that_is_none_is_told_at_the_start(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"keys": []}', '{"keys": [1]}', '{"keys": [{"kty": "RSA"}]}'):
        settings = Settings.model_validate(asked(tmp_path))
        (tmp_path / "jwks.json").write_text(text)
        with pytest.raises(SettingsError, match="JWT_JWKS: "):
            Tokens.of(settings)
