"""Scopes: what a key may do."""

from collections.abc import Collection, Mapping
from enum import StrEnum


class Scope(StrEnum):
    """A right. Some scopes include others, and `ADMIN` includes all."""

    METRICS = "metrics"
    LOOKUP = "lookup"
    EXPORT = "export"
    ERASE = "erase"
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


#: The scopes that each scope includes, beside itself.
_INCLUDED: Mapping[Scope, Collection[Scope]] = {
    Scope.READ: (Scope.METRICS, Scope.LOOKUP, Scope.EXPORT),
    Scope.WRITE: (Scope.ERASE,),
    Scope.ADMIN: tuple(Scope),
}
_SUFFICIENT: Mapping[Scope, frozenset[Scope]] = {
    needed: frozenset({needed, *(scope for scope, has in _INCLUDED.items() if needed in has)})
    for needed in Scope
}


def allow(scopes: Collection[Scope], needed: Scope) -> bool:
    """Return whether some scopes include the scope that is needed."""
    return not _SUFFICIENT[needed].isdisjoint(scopes)
