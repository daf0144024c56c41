"""What a key may do."""

from collections.abc import Collection
from enum import StrEnum


class Scope(StrEnum):
    """A right; each is independent of the others, but `ADMIN` includes all."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


def allow(scopes: Collection[Scope], needed: Scope) -> bool:
    """Return whether scopes include what is needed."""
    return needed in scopes or Scope.ADMIN in scopes
