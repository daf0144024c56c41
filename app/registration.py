"""The decisions, pure: what a record is, and what it does to the row that its id has today.

Nothing here reads a clock, a table or a network: a replay of the topic decides the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import orjson
from pydantic import ValidationError

from app.errors import UnreadableRecordError
from app.keys import partitions_of
from app.positions import token
from app.records import (
    Headers,
    Registration,
    UserRow,
    field_errors,
    moment,
    read_registration,
)

#: A record that was re-sent to its partition names here the position at which it first stood.
MOVED_FROM_HEADER = "moved-from"


class Arrival(Protocol):
    """A record of a partition as it came: what aiokafka's parser gives."""

    @property
    def offset(self) -> int:
        """Where it stands in its partition."""
        ...

    @property
    def timestamp(self) -> int:
        """Its time, in ms since 1970."""
        ...

    @property
    def key(self) -> bytes | None:
        """Its key."""
        ...

    @property
    def value(self) -> bytes | None:
        """Its value; None in a tombstone."""
        ...

    @property
    def headers(self) -> Headers:
        """Its headers."""
        ...


class Decision(StrEnum):
    """What a registration comes to."""

    #: The id was free: there is a new row.
    REGISTERED = "registered"
    #: The same registration once more: nothing changes, the first answer stands.
    REPLAYED = "replayed"
    #: The id belongs to other data.
    ID_TAKEN = "id-taken"


@dataclass(slots=True)
class Sorted:
    """A batch by what must be done with each record, each list in the order of arrival."""

    here: list[tuple[Arrival, Registration]] = field(default_factory=list)
    #: The record keys of ``here``, in its order.
    keys: list[bytes] = field(default_factory=list)
    elsewhere: list[tuple[Arrival, Registration, int]] = field(default_factory=list)
    unreadable: list[tuple[Arrival, UnreadableRecordError]] = field(default_factory=list)


def sort(partition: int, arrivals: Sequence[Arrival], partitions: int) -> Sorted:
    """Return a batch of one partition, sorted by what must be done with each record."""
    batch = Sorted()
    readable = _read_all(arrivals, batch)
    keys = [registration["id"].encode() for _, registration in readable]
    homes = partitions_of(keys, partitions)
    if homes.count(partition) == len(homes):
        batch.here, batch.keys = readable, keys
        return batch
    for (arrival, registration), key, home in zip(readable, keys, homes, strict=True):
        if home == partition:
            batch.here.append((arrival, registration))
            batch.keys.append(key)
        elif was_moved(arrival):
            batch.unreadable.append((arrival, _moved_twice()))
        else:
            batch.elsewhere.append((arrival, registration, home))
    batch.unreadable.sort(key=lambda found: found[0].offset)
    return batch


def _read_all(arrivals: Sequence[Arrival], batch: Sorted) -> list[tuple[Arrival, Registration]]:
    """Return the records that can be read; set the others aside."""
    try:
        # Nearly always: all of them. (A missing value is a TypeError.)
        return [(arrival, read_registration(arrival.value)) for arrival in arrivals]  # type: ignore[arg-type]
    except (ValidationError, TypeError):
        pass
    readable = []
    for arrival in arrivals:
        try:
            readable.append((arrival, read(arrival.value)))
        except UnreadableRecordError as error:
            batch.unreadable.append((arrival, error))
    return readable


def read(value: bytes | None) -> Registration:
    """Return the registration that a record's value holds, or raise `UnreadableRecordError`."""
    if value is None:
        raise UnreadableRecordError("no-value", "The record has no value")
    try:
        return read_registration(value)
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


def was_moved(arrival: Arrival) -> bool:
    """Return whether the record was re-sent from a wrong partition."""
    return any(name == MOVED_FROM_HEADER for name, _ in arrival.headers)


def _moved_twice() -> UnreadableRecordError:
    # Moved once and still in a wrong place: it is not sent round for ever.
    return UnreadableRecordError("moved-twice", "A moved record stands in a wrong partition")


def decide(row: UserRow | None, registration: Registration) -> Decision:
    """Return what a registration comes to, by the row that its id has today (None: no row)."""
    if row is None:
        return Decision.REGISTERED
    if row["name"] == registration["name"] and row["email"] == registration["email"]:
        return Decision.REPLAYED
    return Decision.ID_TAKEN


def first_row(partition: int, arrival: Arrival, registration: Registration) -> UserRow:
    """Return the row that a registration makes of a free id."""
    at = moment(arrival.timestamp)
    return {
        "id": registration["id"],
        "name": registration["name"],
        "email": registration["email"],
        "status": "registered",
        "registered_at": at,
        "updated_at": at,
        "version": 1,
        "position": token(partition, arrival.offset),
    }


def new_rows(
    rows: Mapping[bytes, UserRow], partition: int, batch: Sorted
) -> Mapping[bytes, UserRow]:
    """Return the rows that the registrations of a batch make, by key, deciding them in order.

    ``rows`` holds the rows that the keys have before.
    """
    new: dict[bytes, UserRow] = {}
    for key, (arrival, registration) in zip(batch.keys, batch.here, strict=True):
        row = new.get(key) or rows.get(key)
        if decide(row, registration) is Decision.REGISTERED:
            new[key] = first_row(partition, arrival, registration)
    return new
