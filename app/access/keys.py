"""Access keys: random, shown once, stored as a hash."""

import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.access.scopes import Scope, allow

#: Every key begins with this, so that people and scanners recognise a leaked key.
PREFIX: Final = "registry_key_"
_RANDOM_BYTES = 32

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class Key(BaseModel):
    """A key as it is stored. Sessions refer to it by ``id``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: KeyName
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    #: Writes a second that its holder may send, instead of CLIENT_WRITES_PER_SECOND.
    writes_per_second: Rate | None = None
    #: Reads a second that its holder may send, instead of CLIENT_READS_PER_SECOND.
    reads_per_second: Rate | None = None

    @property
    def is_expired(self) -> bool:
        """Whether the key has expired."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def allows(self, needed: Scope) -> bool:
        """Return whether the key has a scope."""
        return allow(self.scopes, needed)


def new_key(
    name: str,
    scopes: frozenset[Scope],
    lifetime: timedelta | None,
    writes_per_second: float | None = None,
    reads_per_second: float | None = None,
) -> tuple[str, Key]:
    """Return a new key: the text for its holder, and what is stored."""
    text = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    now = datetime.now(UTC).replace(microsecond=0)
    return text, Key(
        name=name,
        id=secrets.token_hex(8),
        sha256=hash_of(text),
        scopes=scopes,
        created_at=now,
        expires_at=None if lifetime is None else now + lifetime,
        writes_per_second=writes_per_second,
        reads_per_second=reads_per_second,
    )


def hash_of(text: str) -> str:
    """Return the hash of a key. Keys are random and cannot be guessed, so a fast hash is safe."""
    return sha256(text.encode(errors="surrogateescape")).hexdigest()
