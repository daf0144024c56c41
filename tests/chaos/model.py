"""The model: what records and their outcomes make of the users, told in the simplest way.

It knows nothing of claims and partitions, and of queues only how many records must have come
before one is rejected. A record's outcome must be one that the users before it allow, and the users
after the last record must be the rows of the tables.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from app.domain.decisions import MAX_QUEUE
from app.domain.positions import offset_of
from tests.chaos.writes import Command

MOST_WRONG_KEPT = 5

#: With fewer records of an id before it, none can find one open and all places of the queue taken.
FEWEST_BEFORE_A_REJECTION = 1 + MAX_QUEUE


def normalised(email: str) -> str:
    """Return what addresses that count as the same have in common; all of the run are ASCII."""
    return email.strip(" ").lower()


@dataclass(frozen=True, slots=True)
class Record:
    """A record in its id's partition."""

    position: str
    id: str
    command: Command


@dataclass(frozen=True, slots=True)
class User:
    """A registered user."""

    name: str
    email: str
    #: Name and email of the first registration.
    first: tuple[str, str]
    #: Of the record that made the user so, and of the one that asked for the address.
    position: str
    attempt: str
    version: int = 1

    @property
    def address(self) -> str:
        """What the user's address has in common with those that count as the same."""
        return normalised(self.email)


class Shown(NamedTuple):
    """What a lookup shows of a user."""

    status: str
    position: str
    name: str
    email: str


@dataclass
class History:
    """What lookups may have shown of a user, one after the other; None: nobody was there."""

    _offsets: list[int] = field(default_factory=list)
    _shown: list[Shown | None] = field(default_factory=list)

    def add(self, position: str, shown: Shown | None) -> None:
        """Add what the record at a position made of the user."""
        self._offsets.append(offset_of(position))
        self._shown.append(shown)

    def since(self, offset: int) -> Sequence[Shown | None]:
        """Return what was to be seen once the record at an offset was settled, and later."""
        first = bisect_right(self._offsets, offset) - 1
        return self._shown[first:] if first >= 0 else [None, *self._shown]


@dataclass
class Model:
    """The users, after the records that were taken in."""

    users: dict[str, User] = field(default_factory=dict)
    histories: defaultdict[str, History] = field(default_factory=lambda: defaultdict(History))
    counts: Counter[str] = field(default_factory=Counter)
    impossible: list[str] = field(default_factory=list)
    #: Addresses that more than one id claimed.
    contended: set[str] = field(default_factory=set)
    #: By id: records that were not rejected because too many waited.
    _before: Counter[str] = field(default_factory=Counter)
    #: By address: the first id that claimed it.
    _claimed_by: dict[str, str] = field(default_factory=dict)
    #: Addresses that anybody ever had, and those that anybody was refused.
    _granted: set[str] = field(default_factory=set)
    _refused: set[str] = field(default_factory=set)

    def take(self, record: Record, outcome: str) -> None:
        """Take in a record, after all others of the same id that stand before it."""
        user = self.users.get(record.id)
        self.counts[outcome] += 1
        if outcome not in self._possible(user, record):
            if len(self.impossible) < MOST_WRONG_KEPT:
                self.impossible.append(f"{record} is {outcome}, and the user was {user}")
            return
        if outcome != "too-many-pending":
            self._before[record.id] += 1
        if user is None and outcome in ("registered", "email-taken"):
            # Until its address is settled, it is shown all the same.
            self._note(record, _made(None, record), "pending")
        if outcome in ("registered", "updated"):
            self.users[record.id] = user = _made(user, record)
            self._granted.add(user.address)
            self._note_claim(record.id, user.address)
        elif outcome == "email-taken":
            address = normalised((record.command or {})["email"])
            self._refused.add(address)
            self._note_claim(record.id, address)
        elif outcome == "erased":
            self.users.pop(record.id, None)
        self._note(record, self.users.get(record.id))

    def _note(self, record: Record, user: User | None, status: str = "registered") -> None:
        shown = None
        if user is not None:
            shown = Shown(status, user.position, user.name, user.email)
        self.histories[record.id].add(record.position, shown)

    def _possible(self, user: User | None, record: Record) -> Set[str]:
        """Return the outcomes that a record may have; that too many wait depends on timing."""
        fewest = FEWEST_BEFORE_A_REJECTION + (record.command is None)
        many = {"too-many-pending"} if self._before[record.id] >= fewest else set()
        return _decided(user, record.command) | many

    def _note_claim(self, user_id: str, address: str) -> None:
        if self._claimed_by.setdefault(address, user_id) != user_id:
            self.contended.add(address)

    def wrong(self) -> Iterator[str]:
        """Yield what cannot be, whatever came before what in the topics of email addresses."""
        yield from self.impossible
        if nobodys := self._refused - self.contended:
            yield f"refused, although nobody else asked for them: {_some(nobodys)}"
        if never := self.contended - self._granted:
            yield f"addresses that many asked for and nobody ever got: {_some(never)}"
        held = Counter(user.address for user in self.users.values())
        if shared := {address for address, holders in held.items() if holders > 1}:
            yield f"addresses of more than one user: {_some(shared)}"

    def holders(self) -> dict[str, str]:
        """Return the id that holds each address."""
        return {user.address: user_id for user_id, user in self.users.items()}


def _decided(user: User | None, command: Command) -> Set[str]:
    """Return the outcomes that a record may have once it is decided."""
    if user is not None and (command or {}).get("ifVersion", user.version) != user.version:
        return {"version-mismatch"}
    if command is None or command.get("type") == "erase":
        return {"erased"}
    if command.get("type") == "update":
        if user is None:
            return {"unknown-id"}
        keeps = normalised(command.get("email", user.email)) == user.address
        return {"updated"} if keeps else {"updated", "email-taken"}
    if user is None:
        return {"registered", "email-taken"}
    return {"replayed"} if (command["name"], command["email"]) == user.first else {"id-taken"}


def _made(user: User | None, record: Record) -> User:
    """Return the user that a registration or an update makes."""
    command = record.command or {}
    if user is None:
        data = command["name"], command["email"]
        return User(*data, first=data, position=record.position, attempt=record.position)
    email = command.get("email", user.email)
    moved = normalised(email) != user.address
    return User(
        command.get("name", user.name),
        email,
        user.first,
        record.position,
        record.position if moved else user.attempt,
        user.version + 1,
    )


def _some(these: Set[str]) -> str:
    return ", ".join(sorted(these)[:MOST_WRONG_KEPT])
