"""Record types, each written once for Kafka, HTTP and the pages."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, cast

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    with_config,
)
from typing_extensions import TypedDict, TypeIs

from app.domain.addresses import EMAIL_PATTERN
from app.domain.compact import dumps
from app.domain.outcomes import Decided, Outcome
from app.domain.positions import PATTERN

#: No character of Unicode's category Cc.
_NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f]*$"

UserId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_NO_CONTROLS)]
#: A name in records. A stored name stays valid.
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
#: A name that clients may send: docs/decisions/names.md.
SentName = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_NO_CONTROLS)]
Email = Annotated[
    str,
    StringConstraints(max_length=254, pattern=EMAIL_PATTERN),
    # The pattern would be unreadable in a description.
    WithJsonSchema({"type": "string", "format": "email", "maxLength": 254}),
]

#: Of a whole number in JSON, which 3.0 is, too.
Whole = BeforeValidator(
    lambda given: int(given) if isinstance(given, float) and given.is_integer() else given
)
#: A version of a user. JavaScript has no larger whole numbers.
Version = Annotated[int, Field(ge=1, le=2**53 - 1), Whole]
PositionToken = Annotated[str, StringConstraints(pattern=f"^{PATTERN}$")]

#: The headers of a record. Kafka allows the same name several times.
Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record on its way to Kafka, with a timestamp in ms since 1970, or None for now."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None
    headers: Headers = ()


#: The latest time in RFC 3339, in milliseconds since 1970.
_LAST_TIMESTAMP_MS = 253_402_300_799_999


@with_config(ConfigDict(strict=True, extra="ignore"))
class Registration(TypedDict):
    """Asks for a user: the value of a record in ``user-registrations``.

    It is a plain dictionary: a worker reads a hundred thousand a second, and a model would cost
    twice as much. `registrations` validates it.
    """

    id: UserId
    name: Name
    email: Email
    #: Without `type`, it is a registration. Other types are not for this record.
    type: NotRequired[Literal["registration"]]


@with_config(ConfigDict(strict=True, extra="ignore"))
class Condition(TypedDict):
    """Which state of a user a change is for. In any other state, nothing changes."""

    #: The version that the user must have.
    ifVersion: NotRequired[Version]
    #: The position that the user must have. After an erasure, versions begin anew.
    ifPosition: NotRequired[PositionToken]


@with_config(ConfigDict(strict=True, extra="ignore"))
class Update(Condition):
    """Asks for a change of a user: of what it names, the rest stays."""

    type: Literal["update"]
    id: UserId
    name: NotRequired[Name]
    email: NotRequired[Email]


@with_config(ConfigDict(strict=True, extra="ignore"))
class Erasure(Condition):
    """Asks for the erasure of a user. Without a condition, a tombstone says the same."""

    type: Literal["erase"]
    id: UserId


@with_config(ConfigDict(strict=True, extra="ignore", title="Registration"))
class SentRegistration(TypedDict):
    """A registration as clients may send it."""

    id: UserId
    name: SentName
    email: Email
    #: Without `type`, it is a registration. Other types are not for this record.
    type: NotRequired[Literal["registration"]]


@with_config(ConfigDict(strict=True, extra="ignore", title="Update"))
class SentUpdate(Condition):
    """An update as clients may send it."""

    type: Literal["update"]
    id: UserId
    name: NotRequired[SentName]
    email: NotRequired[Email]


#: The members of a user in registrations, in the order in which they are shown.
MEMBERS = tuple(member for member in Registration.__annotations__ if member != "type")
#: The members that an update may change.
CHANGEABLE = tuple(member for member in MEMBERS if member != "id")
#: The members that every registration has.
REQUIRED = tuple(member for member in MEMBERS if member in Registration.__required_keys__)

#: The members that make a change depend on the state of the user.
CONDITIONS = tuple(Condition.__annotations__)

#: What a record's value asks for, and what a record does: without a value it is an erasure.
CommandValue = Registration | Update | Erasure
Command = CommandValue | None

#: Registrations of clients. Each is also valid in a record.
registrations = cast("TypeAdapter[Registration]", TypeAdapter(SentRegistration))
_lists = cast("TypeAdapter[list[Registration]]", TypeAdapter(list[SentRegistration]))

#: Return the registrations that parsed JSON values are, or raise `pydantic.ValidationError`.
validated = cast(
    "Callable[[Sequence[object]], list[Registration]]", _lists.validator.validate_python
)

#: Return the value in JSON bytes, or raise `pydantic.ValidationError`: of clients, and of records.
read_registration = cast("Callable[[bytes], Registration]", registrations.validator.validate_json)
_updates: TypeAdapter[Any] = TypeAdapter(SentUpdate)
_erasures: TypeAdapter[Any] = TypeAdapter(Erasure)
read_update = cast("Callable[[bytes], Update]", _updates.validator.validate_json)
registration_in = cast(
    "Callable[[bytes], Registration]", TypeAdapter(Registration).validator.validate_json
)
update_in = cast("Callable[[bytes], Update]", TypeAdapter(Update).validator.validate_json)
erasure_in = cast("Callable[[bytes], Erasure]", _erasures.validator.validate_json)
#: Of rows that clients send, by their type; without one they are registrations.
_of_type: Mapping[str, TypeAdapter[Any]] = {"update": _updates, "erase": _erasures}


def is_erasure(command: Command) -> TypeIs[Erasure | None]:
    """Return whether a command erases a user."""
    return command is None or command.get("type") == "erase"


def is_conditional(command: Command) -> bool:
    """Return whether a command is for one state of a user only."""
    return command is not None and not command.keys().isdisjoint(CONDITIONS)


def is_user_id(text: str) -> bool:
    """Return whether a text may be the id of a user."""
    return 1 <= len(text) <= 128 and not any(unicodedata.category(c) == "Cc" for c in text)


_emails: TypeAdapter[str] = TypeAdapter(Email)


def is_email(text: str) -> bool:
    """Return whether a text may be a user's address."""
    try:
        _emails.validate_python(text)
    except ValidationError:
        return False
    return True


def encode(command: CommandValue) -> bytes:
    """Return a command as JSON bytes."""
    # The usual case: a worker encodes a hundred thousand a second.
    if tuple(command) == MEMBERS:
        return dumps(command)
    is_registration = command.get("type", "registration") == "registration"
    members = MEMBERS if is_registration else ("type", *MEMBERS, *CONDITIONS)
    return dumps({name: command[name] for name in members if name in command})  # type: ignore[literal-required]


def value_of(command: Command) -> bytes | None:
    """Return what the value of a command's record is: an erasure in any state is a tombstone."""
    if command is None or (is_erasure(command) and not is_conditional(command)):
        return None
    return encode(command)


def values_of(commands: Iterable[CommandValue]) -> list[bytes | None]:
    """Return `value_of` each of many that were just validated: its members are in order."""
    return [
        b"%b" % orjson.dumps(each) if "type" not in each else value_of(each) for each in commands
    ]


class Open(TypedDict):
    """An update whose new address is not settled yet; ``at`` is its time in ms since 1970."""

    position: str
    at: int
    name: str
    email: str


class Queued(NamedTuple):
    """A record that waits until an earlier record of its id is settled."""

    offset: int
    timestamp: int
    command: Command


class UserRow(TypedDict):
    """A row of the table ``users``. Until something changes, it is the first registration.

    Times are text (RFC 3339, UTC, milliseconds), so they sort by time. A row has an open attempt
    while it is ``pending`` (its first registration claims an address) or has ``open`` (an update
    claims another one).
    """

    id: str
    name: str
    email: str
    status: Literal["pending", "registered"]
    registered_at: str
    updated_at: str
    version: int
    #: The position of the record that made the row as it is.
    position: str
    #: The position of the record that claimed its address, if that is another one.
    attempt: NotRequired[str]
    #: The digest of its first registration, once the row has changed.
    first_digest: NotRequired[str]
    open: NotRequired[Open]
    #: Plain tuples of the members of `Queued`, because they are stored as JSON.
    queue: NotRequired[list[tuple[int, int, Command]]]


#: Returns a row as JSON bytes.
encode_row = cast("Callable[[UserRow], bytes]", dumps)


def decode_row(stored: bytes) -> UserRow:
    """Return the row in JSON bytes. It is not validated again."""
    return cast(UserRow, orjson.loads(stored))


def decode_rows(stored: Iterable[bytes]) -> list[UserRow]:
    """Return the rows in JSON bytes: `decode_row` for many, at three quarters of its cost."""
    return cast("list[UserRow]", orjson.loads(b"[%b]" % b",".join(stored)))


def encode_outcome(position: str, decided: Decided, moved_to: str | None = None) -> bytes:
    """Return the value of a record in ``registration-outcomes``. Only the key has the id."""
    if moved_to is not None:
        return dumps(outcome_members(position, decided.outcome, moved_to))
    # No character of a position needs an escape.
    return b'{"position":"%b",%b' % (position.encode(), _OUTCOME_ENDS[decided.outcome])


class OutcomeOfWrite(TypedDict):
    """What became of a write."""

    position: str
    outcome: Literal[tuple(sorted({outcome.word for outcome in Outcome}))]  # type: ignore[valid-type]
    reason: NotRequired[Literal[tuple(o.reason for o in Outcome if o.reason)]]  # type: ignore[valid-type]
    moved_to: NotRequired[str]


def outcome_members(position: str, outcome: Outcome, moved_to: str | None = None) -> dict[str, str]:
    """Return the outcome of a record as members, for Kafka and for HTTP."""
    members = {"position": position, "outcome": outcome.word}
    if outcome.reason is not None:
        members["reason"] = outcome.reason
    if moved_to is not None:
        members["moved_to"] = moved_to
    return members


#: For each outcome, the JSON behind the position.
_OUTCOME_ENDS = {
    outcome: dumps(outcome_members("", outcome)).partition(b",")[2] for outcome in Outcome
}


class User(BaseModel):
    """A user, as lookups show it. Times are those of the records that were applied."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    id: UserId
    name: Name
    email: Email
    status: Literal["pending", "registered"]
    registered_at: datetime
    updated_at: datetime
    version: int
    position: str
    #: For how long a copy may lack writes; None if the owner has answered.
    stale_seconds: float | None = None

    def encode(self) -> bytes:
        """Return the user as JSON bytes."""
        return self.model_dump_json(exclude_none=True).encode()

    def stale(self, seconds: float) -> "User":
        """Return the user as a copy that may lack recent writes."""
        return self.model_copy(update={"stale_seconds": round(seconds, 3)})


def public(stored: bytes) -> User:
    """Return the public part of a stored row."""
    return User.model_validate_json(stored)


@lru_cache(maxsize=4096)
def moment(timestamp_ms: int) -> str:
    """Return a record's timestamp (ms since 1970) as text. One out of range becomes the nearest."""
    clamped = min(max(timestamp_ms, 0), _LAST_TIMESTAMP_MS)
    at = datetime.fromtimestamp(clamped // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{clamped % 1000:03}Z"


#: Patterns in words. pydantic's own text would show the pattern.
_PATTERN_DETAIL = {
    "id": "Must not contain control characters",
    "name": "Must not contain control characters",
    "email": "Must be an email address, such as ada@example.com",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One mistake in an input: where, why, and pydantic's name for it."""

    location: tuple[int | str, ...]
    detail: str
    type: str

    @property
    def pointer(self) -> str:
        """The location as a JSON pointer (RFC 6901)."""
        escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in self.location)
        return "".join(f"/{part}" for part in escaped)


def field_errors(error: ValidationError) -> list[FieldError]:
    """Return the mistakes in an input. They do not repeat the input, which may be personal data."""
    return [
        _field_error(found["loc"], found["msg"], found["type"])
        for found in error.errors(include_url=False, include_input=False, include_context=False)
    ]


#: Of the schema of an update: it changes something.
SOMETHING_CHANGES: dict[str, Any] = {"anyOf": [{"required": [name]} for name in CHANGEABLE]}
#: What is wrong with an update that changes nothing.
NOTHING_CHANGES: Sequence[FieldError] = (
    FieldError((), f"Give at least one of {', '.join(CHANGEABLE)}", "missing"),
)


def read_commands(
    values: Sequence[object], *, only_registrations: bool = False
) -> tuple[list[CommandValue], Mapping[int, Sequence[FieldError]]]:
    """Return the commands in parsed JSON values, and the mistakes in the others by index."""
    try:
        return [*validated(values)], {}
    except ValidationError:
        pass
    good: list[CommandValue] = []
    wrong: dict[int, Sequence[FieldError]] = {}
    for index, value in enumerate(values):
        kind = value.get("type") if isinstance(value, dict) else None
        reader: TypeAdapter[Any] = registrations
        if isinstance(kind, str) and not only_registrations:
            reader = _of_type.get(kind, registrations)
        try:
            command = reader.validate_python(value)
        except ValidationError as error:
            wrong[index] = field_errors(error)
            continue
        if kind == "update" and command.keys().isdisjoint(CHANGEABLE):
            wrong[index] = NOTHING_CHANGES
        else:
            good.append(command)
    return good, wrong


def _field_error(location: tuple[int | str, ...], message: str, kind: str) -> FieldError:
    if kind == "string_too_short":
        message = "Must not be empty"
    elif kind == "string_pattern_mismatch" and location:
        message = _PATTERN_DETAIL.get(str(location[-1]), message)
    return FieldError(location, message, kind)
