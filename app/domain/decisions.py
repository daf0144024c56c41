"""The decisions, pure: how a record changes the row of its id.

Nothing here reads a clock, a table or a network, so a replay of the topic decides the same. A claim
asks for an address. Until its verdict comes, later records of the same id wait in the row's queue.
Reasons: docs/decisions/one-email-one-user.md.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from app.domain.email_claims import Verdict
from app.domain.outcomes import Decided, Outcome
from app.domain.parsing import Sorted
from app.domain.positions import offset_of, token
from app.domain.records import (
    CHANGEABLE,
    Command,
    Condition,
    Open,
    Queued,
    Registration,
    Update,
    UserRow,
    encode,
    is_conditional,
    is_erasure,
    moment,
)

#: How many records of one id may wait for the verdict on another. Further ones are rejected.
MAX_QUEUE = 16

_DIGEST_BYTES = 16

Rows = Mapping[bytes, UserRow | None]


class Claiming(NamedTuple):
    """A claim or a release to be sent."""

    kind: Literal["claim", "release"]
    email_key: bytes
    id: str
    attempt: str


@dataclass(slots=True)
class Decisions:
    """Decides the records and verdicts of one partition, one after the other.

    The methods return the new row of an id (None: no row). Outcomes and claims are collected here.
    """

    partition: int
    email_key: Callable[[str], bytes]
    #: Returns the key under which version 0.8 claimed an address, if that is another key.
    key_of_0_8: Callable[[str], bytes | None] = lambda _: None

    claims: list[Claiming] = field(default_factory=list)
    outcomes: list[Decided] = field(default_factory=list)
    #: The rows of users who have come, and of those who have gone.
    registered: list[UserRow] = field(default_factory=list)
    erased: list[UserRow] = field(default_factory=list)

    # -- U1: a record

    def ask_all(self, batch: Sorted, rows: Rows) -> Rows:
        """Decide the records of a batch, given the rows that their keys have before it.

        Returns the rows that change.
        """
        changed: dict[bytes, UserRow | None] = {}
        for key, (arrival, command) in zip(batch.keys, batch.here, strict=True):
            row = changed[key] if key in changed else rows.get(key)
            new = self.ask(row, key, Queued(arrival.offset, arrival.timestamp, command))
            if new is not row:
                changed[key] = new
        return changed

    def ask(self, row: UserRow | None, key: bytes, asked: Queued) -> UserRow | None:
        """Decide a record. If an attempt is open, the record waits in the row or is rejected."""
        if row is None or not is_open(row):
            return self._decide(row, key, asked)
        if waiting_in(row) >= places_for(asked.command):
            self.reject(key, asked)
            return row
        return self.accept(row, key, asked)

    def reject(self, key: bytes, asked: Queued) -> None:
        """Reject a record because too many records of its id wait already."""
        self._decided(asked.offset, key.decode(), Outcome.TOO_MANY_PENDING)

    def accept(self, row: UserRow | None, key: bytes, asked: Queued) -> UserRow | None:
        """Decide a record, or let it wait in the row if an attempt is open.

        The queue has no limit here.
        """
        if row is None or not is_open(row):
            return self._decide(row, key, asked)
        self._decided(asked.offset, row["id"], Outcome.PENDING)
        return cast(UserRow, {**row, "queue": [*row.get("queue", ()), tuple(asked)]})

    def _decide(self, row: UserRow | None, key: bytes, asked: Queued) -> UserRow | None:
        command = asked.command
        # Registrations first: a worker that catches up decides a hundred thousand a second.
        if command is not None and command.get("type", "registration") == "registration":
            return self._register(row, cast(Registration, command), asked)
        if row is not None and not _is_for(row, command):
            self._decided(asked.offset, row["id"], Outcome.VERSION_MISMATCH)
            return row
        if is_erasure(command):
            self._erase(row, key, asked)
            return None
        return self._update(row, cast(Update, command), asked)

    def _register(
        self, row: UserRow | None, command: Registration, asked: Queued
    ) -> UserRow | None:
        user_id = command["id"]
        if row is not None:
            same = _is_first_registration(row, command)
            self._decided(asked.offset, user_id, Outcome.REPLAYED if same else Outcome.ID_TAKEN)
            return row
        attempt = token(self.partition, asked.offset)
        self.claims.append(Claiming("claim", self.email_key(command["email"]), user_id, attempt))
        self._decided(asked.offset, user_id, Outcome.PENDING)
        at = moment(asked.timestamp)
        new: dict[str, Any] = {
            **command,
            "status": "pending",
            "registered_at": at,
            "updated_at": at,
            "version": 1,
            "position": attempt,
        }
        new.pop("type", None)
        return cast(UserRow, new)

    def _update(self, row: UserRow | None, command: Update, asked: Queued) -> UserRow | None:
        if row is None:
            self._decided(asked.offset, command["id"], Outcome.UNKNOWN_ID)
            return None
        at = {"position": token(self.partition, asked.offset), "at": asked.timestamp}
        wanted = cast(Open, {**at, **_changeable(row), **_changeable(command)})
        email_key = self.email_key(wanted["email"])
        if email_key == self.email_key(row["email"]):
            self._decided(asked.offset, row["id"], Outcome.UPDATED)
            return _updated(row, wanted, attempt_of(row))
        self.claims.append(Claiming("claim", email_key, row["id"], wanted["position"]))
        self._decided(asked.offset, row["id"], Outcome.PENDING)
        return cast(UserRow, {**row, "open": wanted})

    def _erase(self, row: UserRow | None, key: bytes, asked: Queued) -> None:
        if row is not None:
            self._release(row)
            self.erased.append(row)
        # Erasing an unknown id has the same outcome, so that a retry gets the answer of the first
        # call.
        self._decided(asked.offset, key.decode(), Outcome.ERASED)

    # -- U2: a verdict

    def settle(self, row: UserRow | None, key: bytes, verdict: Verdict) -> UserRow | None:
        """Apply a verdict, then the records that waited for it, up to the next attempt."""
        attempt, granted = verdict["attempt"], verdict["verdict"] == "granted"
        email_key = verdict["email_key"].encode()
        if row is None or _open_attempt(row) != attempt:
            # No attempt waits for this verdict. Release the address unless the row holds it by this
            # attempt.
            if granted and (row is None or attempt_of(row) != attempt):
                self.claims.append(Claiming("release", email_key, key.decode(), attempt))
            return row
        queue = row.get("queue", ())
        settled = self._granted(row, attempt) if granted else self._taken(row, attempt)
        return self._drain(settled, key, queue) if queue else settled

    def _granted(self, row: UserRow, attempt: str) -> UserRow:
        wanted = row.get("open")
        if wanted is None:
            self._decided(offset_of(attempt), row["id"], Outcome.REGISTERED)
            registered = _without_waiting({**row, "status": "registered"})
            self.registered.append(registered)
            return registered
        self._decided(offset_of(attempt), row["id"], Outcome.UPDATED)
        self._release(row)
        return _without_waiting(_updated(row, wanted, attempt))

    def _taken(self, row: UserRow, attempt: str) -> UserRow | None:
        self._decided(offset_of(attempt), row["id"], Outcome.EMAIL_TAKEN)
        return _without_waiting(row) if "open" in row else None

    def _drain(
        self, row: UserRow | None, key: bytes, queue: Sequence[tuple[int, int, Command]]
    ) -> UserRow | None:
        """Decide waiting records in order, until one opens an attempt.

        The rest waits for that attempt.
        """
        for count, queued in enumerate(queue, start=1):
            row = self._decide(row, key, Queued(*queued))
            if row is not None and is_open(row):
                left = queue[count:]
                return cast(UserRow, {**row, "queue": left}) if left else row
        return row

    # -- what comes of it

    def _release(self, row: UserRow) -> None:
        for email_key in (self.email_key(row["email"]), self.key_of_0_8(row["email"])):
            if email_key is not None:
                self.claims.append(Claiming("release", email_key, row["id"], attempt_of(row)))

    def _decided(self, offset: int, user_id: str, outcome: Outcome) -> None:
        self.outcomes.append(Decided(offset, user_id, outcome))


def is_open(row: UserRow) -> bool:
    """Return whether a row waits for a verdict."""
    return row["status"] == "pending" or "open" in row


def waiting_in(row: UserRow) -> int:
    """Return how many records wait in a row."""
    return len(row.get("queue", ()))


def places_for(command: Command) -> int:
    """Return the queue's places for a record like this: an erasure in any case has one more.

    So a user can be erased, however fast others write to the same id.
    """
    return MAX_QUEUE + (is_erasure(command) and not is_conditional(command))


def _is_for(row: UserRow, command: Command) -> bool:
    """Return whether a command is for the state that a row is in."""
    conditions = cast(Condition, command or {})
    return (
        conditions.get("ifVersion", row["version"]) == row["version"]
        and conditions.get("ifPosition", row["position"]) == row["position"]
    )


def _open_attempt(row: UserRow) -> str | None:
    if row["status"] == "pending":
        return row["position"]
    wanted = row.get("open")
    return None if wanted is None else wanted["position"]


def attempt_of(row: UserRow) -> str:
    """Return the attempt by which a row holds its address."""
    return row.get("attempt", row["position"])


def _is_first_registration(row: UserRow, command: Registration) -> bool:
    first = row.get("first_digest")
    if first is not None:
        return first == _digest(command)
    for member in CHANGEABLE:  # noqa: SIM110  # a generator would cost twice as much
        if row.get(member) != command.get(member):
            return False
    return True


def _digest(of: UserRow | Registration) -> str:
    data = encode(cast(Registration, {"id": "", **_changeable(of)}))
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _changeable(of: UserRow | Registration | Update | Open) -> dict[str, Any]:
    """Return the members that an update may change, as far as they are there, in a fixed order."""
    return {member: of[member] for member in CHANGEABLE if member in of}  # type: ignore[literal-required]


def _updated(row: UserRow, wanted: Open, attempt: str) -> UserRow:
    updated = {
        **row,
        **_changeable(wanted),
        "updated_at": moment(wanted["at"]),
        "version": row["version"] + 1,
        "position": wanted["position"],
        "attempt": attempt,
        "first_digest": row.get("first_digest") or _digest(row),
    }
    return cast(UserRow, updated)


def _without_waiting(row: UserRow) -> UserRow:
    if "open" in row or "queue" in row:
        left = (item for item in row.items() if item[0] not in ("open", "queue"))
        return cast(UserRow, dict(left))
    return row
