"""The decisions, pure: what a record is, and what it does to the row that its id has today.

Nothing here reads a clock, a table or a network: a replay of the topic decides the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson
from pydantic import ValidationError

from app.errors import UnreadableRecordError
from app.keys import partition_of
from app.positions import Position
from app.records import Headers, Registration, UserRow, field_errors, moment

#: A record that was re-sent to its partition names here the position at which it first stood.
MOVED_FROM_HEADER = "moved-from"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record as it came: where it stood, when (ms since 1970), and its bytes."""

    position: Position
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def moved(self) -> bool:
        """Whether the record was re-sent from a wrong partition."""
        return any(name == MOVED_FROM_HEADER for name, _ in self.headers)


@dataclass(frozen=True, slots=True)
class Registered:
    """The id was free: ``row`` is new."""

    row: UserRow


@dataclass(frozen=True, slots=True)
class Replayed:
    """The same registration once more: nothing changes, the first answer stands."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The id belongs to other data."""

    reason: str = "id-taken"


Decision = Registered | Replayed | Rejected


def read(value: bytes | None) -> Registration:
    """Return the registration that a record's value holds, or raise `UnreadableRecordError`."""
    if value is None:
        raise UnreadableRecordError("no-value", "The record has no value")
    try:
        return Registration.model_validate_json(value)
    except ValidationError as error:
        raise _unreadable(value, error) from None


def _unreadable(value: bytes, error: ValidationError) -> UnreadableRecordError:
    found = field_errors(error)
    cause = "invalid-json" if found[0].type == "json_invalid" else "invalid-record"
    if cause == "invalid-record" and _names_another_type(value):
        cause = "unknown-type"
    return UnreadableRecordError(cause, "; ".join(f"{e.pointer}: {e.detail}" for e in found))


def _names_another_type(value: bytes) -> bool:
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return isinstance(parsed, dict) and parsed.get("type", "registration") != "registration"


@dataclass(slots=True)
class Sorted:
    """A batch by what must be done with each record, each list in the order of arrival."""

    here: list[tuple[Arrival, Registration]] = field(default_factory=list)
    elsewhere: list[tuple[Arrival, Registration, int]] = field(default_factory=list)
    unreadable: list[tuple[Arrival, UnreadableRecordError]] = field(default_factory=list)


def sort(arrivals: Iterable[Arrival], partitions: int) -> Sorted:
    """Return a batch of one partition, sorted by what must be done with each record."""
    batch = Sorted()
    for arrival in arrivals:
        try:
            registration = read(arrival.value)
            home = home_partition(arrival, registration, partitions)
        except UnreadableRecordError as error:
            batch.unreadable.append((arrival, error))
            continue
        if home == arrival.position.partition:
            batch.here.append((arrival, registration))
        else:
            batch.elsewhere.append((arrival, registration, home))
    return batch


def home_partition(arrival: Arrival, registration: Registration, partitions: int) -> int:
    """Return the partition in which the registration must be applied.

    A record that has been moved once and is still in the wrong place is not sent round for ever.
    """
    home = partition_of(registration.key, partitions)
    if arrival.moved and home != arrival.position.partition:
        raise UnreadableRecordError("moved-twice", "A moved record stands in a wrong partition")
    return home


def decide(row: UserRow | None, registration: Registration, arrival: Arrival) -> Decision:
    """Return what a registration does to the row that its id has today (None: no row)."""
    digest = registration.digest()
    if row is None:
        return Registered(_first_row(registration, digest, arrival))
    return Replayed() if row.first_digest == digest else Rejected()


def new_rows(
    rows: Mapping[str, UserRow], registrations: Iterable[tuple[Arrival, Registration]]
) -> dict[str, UserRow]:
    """Return the rows that registrations make, by id, deciding them in their order.

    ``rows`` holds the rows that the ids have before.
    """
    new: dict[str, UserRow] = {}
    for arrival, registration in registrations:
        row = new.get(registration.id) or rows.get(registration.id)
        decision = decide(row, registration, arrival)
        if isinstance(decision, Registered):
            new[registration.id] = decision.row
    return new


def _first_row(registration: Registration, digest: str, arrival: Arrival) -> UserRow:
    at = moment(arrival.timestamp_ms)
    return UserRow(
        id=registration.id,
        name=registration.name,
        email=registration.email,
        status="registered",
        registered_at=at,
        updated_at=at,
        version=1,
        position=arrival.position.token(),
        first_digest=digest,
    )
