"""JSON Web Tokens of an identity provider (an extra): public keys, and the scopes of a token.

``JWT_JWKS`` turns it on. A token is accepted if a key of the provider signed it (RS256 or ES256),
it has our issuer and audience, and it has not expired.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from app.access.keys import Key, KeyName, hash_of
from app.access.scopes import Scope
from app.config.settings import Settings
from app.domain.errors import SettingsError
from app.system import retries
from app.system.http_client import AnswerTooLongError, read_body

if TYPE_CHECKING:
    from jwt import PyJWK

log = structlog.get_logger(__name__)

ALGORITHMS: Final = ("RS256", "ES256")
#: How often the provider's keys are read: from a file, and from an address.
FILE_SECONDS, URL_SECONDS = 1.0, 300.0
#: How long the keys are trusted after they were read.
TRUST_FILE_SECONDS, TRUST_URL_SECONDS = 60.0, 3_600.0
FETCH_TIMEOUT_SECONDS = 10.0
MAX_JWKS_BYTES = 256 * 1024
MAX_TOKEN_CHARACTERS = 8 * 1024
#: How many checked tokens are remembered. Checking one costs as much as several requests.
MAX_REMEMBERED = 10_000
MIN_RSA_BITS = 2_048

_NAMES = TypeAdapter[str](KeyName)


class Tokens:
    """Checks tokens with the provider's keys as they were last read."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = monotonic) -> None:
        self._source = str(settings.jwt_jwks)
        self._audience, self._issuer = settings.jwt_audience, settings.jwt_issuer
        self._claim = settings.jwt_scope_claim
        self._clock = clock
        self._is_url = self._source.startswith(("http://", "https://"))
        self._keys: Mapping[str | None, PyJWK] = {}
        self._read_at: float | None = None
        self._reason: str | None = "the keys of JWT_JWKS were not read yet"
        self._known: OrderedDict[str, Key] = OrderedDict()
        self._hurries = asyncio.Event()

    @classmethod
    def of(cls, settings: Settings) -> "Tokens | None":
        """Return what the settings ask for, None without tokens; raise `SettingsError`."""
        if settings.jwt_jwks is None:
            return None
        try:
            import jwt  # noqa: F401, PLC0415
        except ImportError:
            raise SettingsError(
                "JWT_JWKS: tokens need the extra jwt: pip install '.[jwt]'"
            ) from None
        made = cls(settings)
        if not made._is_url:
            made.take(_in_file(made._source))
        return made

    @property
    def trouble(self) -> str | None:
        """Why the provider's keys are unknown; None if they are known.

        One provider must not make all workers unready, so its keys are trusted for a while.
        """
        return None if self._is_url and self._are_trusted else self._reason

    def find(self, text: str) -> Key | None:
        """Return the rights of a token as a key; None if the token is not valid now."""
        if not self._are_trusted or len(text) > MAX_TOKEN_CHARACTERS:
            return None
        hashed = hash_of(text)
        key = self._known.get(hashed)
        if key is None and (key := self._checked(text, hashed)) is not None:
            self._known[hashed] = key
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return None if key is None or key.is_expired else key

    @property
    def _are_trusted(self) -> bool:
        trusted = TRUST_URL_SECONDS if self._is_url else TRUST_FILE_SECONDS
        return self._read_at is not None and self._clock() - self._read_at < trusted

    def _checked(self, text: str, hashed: str) -> Key | None:
        import jwt  # noqa: PLC0415

        try:
            kid = jwt.get_unverified_header(text).get("kid")
            key = self._keys.get(kid)
            if key is None:
                self._hurries.set()  # perhaps the provider has a new one
                return None
            claims = jwt.decode(
                text,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp", "aud", "iss", "sub"]},
            )
            return _key_of(claims, claims.get(self._claim), hashed)
        except (jwt.PyJWTError, ValidationError, ValueError, TypeError, OverflowError, OSError):
            return None

    # -- the provider's keys

    def take(self, text: bytes) -> None:
        """Take the provider's keys from a JSON Web Key Set; raise `SettingsError`."""
        keys = _keys_in(text)
        if {kid: key.key for kid, key in keys.items()} != {k: v.key for k, v in self._keys.items()}:
            self._known.clear()
            self._keys = keys
        self._read_at, self._reason = self._clock(), None

    async def keep_up(self) -> None:
        """Read the provider's keys from time to time."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(FETCH_TIMEOUT_SECONDS), auto_decompress=False
        ) as session:
            while True:
                seconds = await self._read(session)
                self._hurries.clear()
                try:
                    # An unknown key does not start a request at once, because anybody can name one.
                    await asyncio.sleep(min(seconds, retries.TOKEN_KEYS.first_seconds))
                    async with asyncio.timeout(max(seconds - retries.TOKEN_KEYS.first_seconds, 0)):
                        await self._hurries.wait()
                except TimeoutError:
                    pass

    async def _read(self, session: aiohttp.ClientSession) -> float:
        """Read the keys once; return the seconds until they should be read again."""
        try:
            if self._is_url:
                self.take(await _fetched(session, self._source))
                return URL_SECONDS
            self.take(_in_file(self._source))
        except SettingsError as error:
            if str(error) != self._reason:
                log.error("the keys of tokens cannot be read", reason=str(error))
            self._reason = str(error)
            return retries.TOKEN_KEYS.first_seconds if self._is_url else FILE_SECONDS
        return FILE_SECONDS


def _in_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise SettingsError(f"JWT_JWKS: {path} cannot be read: {why}") from None


async def _fetched(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        headers = {"Accept-Encoding": "identity"}
        async with session.get(url, headers=headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise SettingsError(f"JWT_JWKS: the address answers {answer.status}")
            return await read_body(answer, MAX_JWKS_BYTES)
    except AnswerTooLongError:
        raise SettingsError("JWT_JWKS: the address answers more than keys") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        told = f"JWT_JWKS: the address does not answer ({type(error).__name__})"
        raise SettingsError(told) from None


def _keys_in(text: bytes) -> "Mapping[str | None, PyJWK]":
    """Return the keys that may sign tokens, by their ids. Keys of other kinds are ignored."""
    from jwt import PyJWK, PyJWTError  # noqa: PLC0415

    found: dict[str | None, PyJWK] = {}
    try:
        listed = orjson.loads(text)["keys"]
        for each in listed:
            algorithm = each.get("alg") or {"RSA": "RS256", "EC": "ES256"}.get(each.get("kty"))
            if each.get("use", "sig") != "sig" or algorithm not in ALGORITHMS:
                continue
            key = PyJWK({**each, "alg": algorithm})
            if key.key_type != "RSA" or key.key.key_size >= MIN_RSA_BITS:
                found[each.get("kid")] = key
    except (PyJWTError, ValueError, KeyError, TypeError, AttributeError):
        found = {}
    if not found:
        raise SettingsError("JWT_JWKS: holds no key of RS256 or ES256 (RFC 7517)")
    return found


def _key_of(claims: Mapping[str, Any], scopes: object, hashed: str) -> Key | None:
    """Return the rights in claims as a key; None if there are none."""
    named = scopes.split() if isinstance(scopes, str) else scopes
    listed = [each for each in named if isinstance(each, str)] if isinstance(named, list) else []
    allowed = frozenset(scope for scope in Scope if scope.value in listed)
    if not allowed:
        return None
    end = datetime.fromtimestamp(int(claims["exp"]), UTC)
    return Key(
        name=_name(str(claims["sub"])),
        id=hashed[:16],
        sha256=hashed,
        scopes=allowed,
        created_at=end,
        expires_at=end,
    )


def _name(subject: str) -> str:
    """Return a name for a token: its subject, unless that may be a person's address."""
    try:
        return _NAMES.validate_python(f"jwt-{subject}")
    except ValidationError:
        return f"jwt-{hash_of(subject)[:32]}"
