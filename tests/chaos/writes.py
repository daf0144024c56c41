"""What the clients write: the same write of a number is the same record, whoever sends it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: Every so many-th registration asks for an address that others ask for, too, and how many do.
CONTENDED_EVERY = 20
CONTENDERS = 5


class Kind(StrEnum):
    """What a write is for."""

    REGISTRATION = "registration"
    #: The same registration once more, and its id with other data.
    REPEAT = "repeat"
    CONFLICT = "conflict"
    RENAME = "rename"
    NEW_ADDRESS = "new address"
    CONTENDED_ADDRESS = "contended address"
    #: A new name for one version of the user only, and an erasure of one.
    RENAME_OF_VERSION = "rename of a version"
    ERASURE_OF_VERSION = "erasure of a version"
    ERASURE = "erasure"


UPDATES = (Kind.RENAME, Kind.NEW_ADDRESS, Kind.CONTENDED_ADDRESS, Kind.RENAME_OF_VERSION)
ERASURES = (Kind.ERASURE, Kind.ERASURE_OF_VERSION)

#: What may change a user who is there; renames for one version are as likely as all others.
CHANGES = (*UPDATES, *[Kind.RENAME_OF_VERSION] * 2, Kind.ERASURE_OF_VERSION)

#: What a record's value says; None: it is a tombstone.
Command = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Write:
    """One write: which user it is about, and what is to become of it."""

    number: int
    kind: Kind = Kind.REGISTRATION
    #: Tells the updates of a user apart.
    turn: int = 0

    @property
    def is_contended(self) -> bool:
        """Whether it asks for an address that other users ask for."""
        if self.kind is Kind.REGISTRATION:
            return self.number % CONTENDED_EVERY == 0
        return self.kind is Kind.CONTENDED_ADDRESS

    def command(self, seed: int) -> Command:
        """Return what the record says."""
        named = {"id": user_id(seed, self.number)}
        match self.kind:
            case Kind.REGISTRATION | Kind.REPEAT:
                return named | {"name": f"User {self.number}", "email": self._first_email(seed)}
            case Kind.CONFLICT:
                return named | {
                    "name": "Somebody Else",
                    "email": _email(seed, "other", self.number),
                }
            case Kind.ERASURE:
                return None
            case Kind.RENAME:
                changed = {"name": f"User {self.number} Renamed {self.turn}"}
            case Kind.NEW_ADDRESS:
                changed = {"email": _email(seed, f"new-{self.turn}", self.number)}
            case Kind.CONTENDED_ADDRESS:
                changed = {"email": contended_email(seed, self.number)}
            case Kind.RENAME_OF_VERSION:
                name = f"User {self.number} Renamed {self.turn}"
                return {"type": "update"} | named | {"name": name, "ifVersion": self._version}
            case Kind.ERASURE_OF_VERSION:
                return {"type": "erase"} | named | {"ifVersion": self._version}
        return {"type": "update"} | named | changed

    @property
    def _version(self) -> int:
        """The version that the user has if each change before this one was made."""
        return self.turn + 1

    def email(self, seed: int) -> str:
        """Return the address that it asks for, else the first one of its user."""
        return str((self.command(seed) or {}).get("email") or self._first_email(seed))

    def _first_email(self, seed: int) -> str:
        if Write(self.number).is_contended:
            return contended_email(seed, self.number)
        return _email(seed, "user", self.number)


def user_id(seed: int, number: int) -> str:
    """Return the id of a user."""
    return f"chaos-{seed}-{number}"


def contended_email(seed: int, number: int) -> str:
    """Return the address that the user contends for, as this user spells it."""
    address = _email(seed, "shared", number // (CONTENDED_EVERY * CONTENDERS))
    return spelled(address, number + number // CONTENDED_EVERY)


def spelled(email: str, which: int) -> str:
    """Return one of the spellings of an address; all of them count as the same."""
    spellings = (email, email.upper(), f" {email}", f"{email.title()}  ", f"  {email.upper()} ")
    return spellings[which % len(spellings)]


def _email(seed: int, whose: str, number: int) -> str:
    return f"{whose}-{number}@chaos-{seed}.example.com"
