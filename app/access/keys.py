"""Access keys: random, shown once, stored as a hash."""

import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.access.scopes import Scope, allow

#: What every key begins with, so that people and scanners recognise one that is lost.
PREFIX: Final = "registry_key_"
_RANDOM_BYTES = 32

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class Key(BaseModel):
    """A key as it is kept; ``id`` is what sessions name it by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: KeyName
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    #: How many writes a second its holder may send, instead of CLIENT_WRITES_PER_SECOND.
    writes_per_second: Rate | None = None
    #: The same of reads, instead of CLIENT_READS_PER_SECOND.
    reads_per_second: Rate | None = None

    @property
    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def allows(self, needed: Scope) -> bool:
        """Return whether it may do what is needed."""
        return allow(self.scopes, needed)


def new_key(
    name: str,
    scopes: frozenset[Scope],
    lifetime: timedelta | None,
    writes_per_second: float | None = None,
    reads_per_second: float | None = None,
) -> tuple[str, Key]:
    """Return a new key: the text that its holder is given, and what is kept of it."""
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
    """Return what is kept of a key. It is random: nothing can be guessed, so this may be fast."""
    return sha256(text.encode(errors="surrogateescape")).hexdigest()
