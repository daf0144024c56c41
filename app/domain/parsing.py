"""Parsing, pure: what a record of ``user-registrations`` asks for, and its right partition.

Any producer may write to the topic: with or without a key, with any partitioner, any bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json

from app.domain.authors import author_headers
from app.domain.consumed_records import (
    ConsumedRecord,
    as_they_were,
    bytes_of,
    require_readable,
    writable,
)
from app.domain.errors import UnreadableRecordError
from app.domain.keys import encode_key, partitions_of
from app.domain.records import (
    CHANGEABLE,
    Command,
    Headers,
    encode,
    erasure_in,
    field_errors,
    is_user_id,
    registration_in,
    update_in,
)

#: The header of a moved record that holds its first position.
MOVED_FROM_HEADER = "moved-from"

#: A larger unreadable record is not moved. This is half of what a topic takes.
MAX_MOVED_BYTES = 512 * 1024


class Move(NamedTuple):
    """A record in a wrong partition, and the record to send instead."""

    arrival: ConsumedRecord
    partition: int
    id: str
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(slots=True)
class Sorted:
    """A batch, sorted by what must be done with each record. Each list keeps the order."""

    here: list[tuple[ConsumedRecord, Command]] = field(default_factory=list)
    #: The record keys of ``here``, in the same order.
    keys: list[bytes] = field(default_factory=list)
    elsewhere: list[Move] = field(default_factory=list)
    unreadable: list[tuple[ConsumedRecord, UnreadableRecordError]] = field(default_factory=list)


def sort(partition: int, arrivals: Sequence[ConsumedRecord], partitions: int) -> Sorted:
    """Return a batch of one partition, sorted by what must be done with each record."""
    commands: list[Any]
    arrivals = as_they_were(arrivals)
    try:
        require_readable(arrivals)
        # Nearly always, all of them are registrations. (A missing value is a TypeError.)
        commands = [registration_in(arrival.value) for arrival in arrivals]  # type: ignore[arg-type]
        keys = [command["id"].encode() for command in commands]
    except (ValidationError, TypeError, UnreadableRecordError):
        commands = keys = []
    if len(commands) < len(arrivals):
        # Outside the `except` block: there, this error would be the context of later ones, and
        # would keep all records in memory.
        read_each = [_read(arrival) for arrival in arrivals]
        commands = [command for command, _ in read_each]
        keys = [key for _, key in read_each]
    targets = partitions_of(keys, partitions)
    if targets.count(partition) == len(targets) and not _Unreadable.is_in(commands):
        return Sorted(list(zip(arrivals, commands, strict=True)), keys)
    batch = Sorted()
    for arrival, command, key, target in zip(arrivals, commands, keys, targets, strict=True):
        # Unreadable records with an id are moved, too, so that an erasure finds them. After one
        # move a record is in its target partition until the number of partitions changes. Its
        # headers do not matter.
        if key and target != partition and _travels(command, arrival):
            batch.elsewhere.append(_move(arrival, command, key, target))
        elif isinstance(command, _Unreadable):
            batch.unreadable.append((arrival, command.error))
        else:
            batch.here.append((arrival, command))
            batch.keys.append(key)
    return batch


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for the command of an unreadable record."""

    error: UnreadableRecordError

    @classmethod
    def is_in(cls, commands: Sequence[Any]) -> bool:
        return any(type(command) is cls for command in commands)


def _read(arrival: ConsumedRecord) -> tuple[Any, bytes]:
    """Return the command of a record and the key of its id. The key is empty if there is no id."""
    try:
        return read(arrival)
    except UnreadableRecordError as error:
        error.__context__ = None
        return _Unreadable(error.with_traceback(None)), encode_key(id_of(arrival) or "")


def _travels(command: Any, arrival: ConsumedRecord) -> bool:
    # A record that came compressed may be too large to be sent unchanged.
    size = len(arrival.value or b"") + bytes_of(arrival.headers)
    return not isinstance(command, _Unreadable) or size <= MAX_MOVED_BYTES


def _move(arrival: ConsumedRecord, command: Any, key: bytes, target: int) -> Move:
    user_id = key.decode()
    if isinstance(command, _Unreadable):
        headers = writable(arrival.headers)
        return Move(arrival, target, user_id, arrival.key, arrival.value, headers)
    headers = author_headers(arrival.headers)
    return Move(arrival, target, user_id, key, command and encode(command), headers)


def read(arrival: ConsumedRecord) -> tuple[Command, bytes]:
    """Return the command of a record and the key of its id; raise `UnreadableRecordError`."""
    require_readable((arrival,))
    if arrival.value is None:
        user_id = _id_in_key(arrival)
        if user_id is None:
            raise UnreadableRecordError("no-value", "A record without a value needs an id as key")
        return None, encode_key(user_id)
    command = read_command(arrival.value)
    return command, encode_key(command["id"])


def read_command(value: bytes) -> Any:
    """Return the command in a record's value, or raise `UnreadableRecordError`."""
    kind = _type_of(value)
    if kind == "update":
        return _read_update(value)
    try:
        return erasure_in(value) if kind == "erase" else registration_in(value)
    except ValidationError as error:
        raise _unreadable(value, error) from None


def _read_update(value: bytes) -> Any:
    try:
        update = update_in(value)
    except ValidationError as error:
        raise _unreadable(value, error) from None
    if update.keys().isdisjoint(CHANGEABLE):
        raise UnreadableRecordError("invalid-record", "An update needs a name or an email")
    return update


def _unreadable(value: bytes, error: ValidationError) -> UnreadableRecordError:
    found = field_errors(error)
    cause = "invalid-json" if found[0].type == "json_invalid" else "invalid-record"
    if cause == "invalid-record" and _type_of(value) not in ("registration", "update", "erase"):
        cause = "unknown-type"
    return UnreadableRecordError(cause, "; ".join(f"{e.pointer}: {e.detail}" for e in found))


def _type_of(value: bytes) -> Any:
    parsed = _parsed(value)
    return parsed.get("type", "registration") if isinstance(parsed, dict) else "registration"


def _parsed(value: bytes | None) -> Any:
    try:
        # orjson refuses some numbers that pydantic accepts.
        return from_json(value or b"")
    except ValueError:
        return None


def id_of(arrival: ConsumedRecord) -> str | None:
    """Return the id in a record, readable or not; None if there is no id."""
    parsed = _parsed(arrival.value)
    named = parsed.get("id") if isinstance(parsed, dict) else None
    if isinstance(named, str) and is_user_id(named):
        return named
    return _id_in_key(arrival)


def _id_in_key(arrival: ConsumedRecord) -> str | None:
    try:
        user_id = (arrival.key or b"").decode()
    except UnicodeDecodeError:
        return None
    return user_id if is_user_id(user_id) else None
