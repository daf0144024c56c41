"""What travels: each record type is written once, and serves Kafka, HTTP and the pages alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Literal, NotRequired, cast

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from app.keys import EMAIL_PATTERN, encode_key

#: 1-128 characters, none of them a control character (Unicode category Cc).
UserId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$"),
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Email = Annotated[str, StringConstraints(max_length=254, pattern=EMAIL_PATTERN)]

#: A record's headers: Kafka allows a name more than once.
Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record on its way to Kafka; its timestamp in ms since 1970, None for now."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None
    headers: Headers = ()


#: The latest moment that RFC 3339 can write, in milliseconds since 1970.
_LAST_TIMESTAMP_MS = 253_402_300_799_999


@with_config(ConfigDict(strict=True, extra="ignore"))
class Registration(TypedDict):
    """A wish to register a user: the value of a record in ``user-registrations``.

    A plain dictionary, as it travels: a hundred thousand a second are read, and a model would cost
    twice as much. `registrations` validates it.
    """

    id: UserId
    name: Name
    email: Email
    #: No `type` means a registration; other types are not for this record.
    type: NotRequired[Literal["registration"]]


registrations = TypeAdapter(Registration)

#: Returns the registration in JSON bytes, or raises `pydantic.ValidationError`.
read_registration = cast("Callable[[bytes], Registration]", registrations.validator.validate_json)


def key_of(registration: Registration) -> bytes:
    """Return the record key of a registration: its id's UTF-8 bytes."""
    return encode_key(registration["id"])


def encode(registration: Registration) -> bytes:
    """Return a registration as the JSON bytes that travel."""
    return orjson.dumps({name: registration[name] for name in ("id", "name", "email")})


class UserRow(TypedDict):
    """A row of the table ``users``. While nothing has changed it, it is its first registration.

    Times are text (RFC 3339, UTC, milliseconds), which sorts as they do.
    """

    id: str
    name: str
    email: str
    status: Literal["registered"]
    registered_at: str
    updated_at: str
    version: int
    position: str


#: Returns a row as JSON bytes.
encode_row = cast("Callable[[UserRow], bytes]", orjson.dumps)


def decode_row(stored: bytes) -> UserRow:
    """Return the row in JSON bytes; it is one of ours and not validated again."""
    return cast(UserRow, orjson.loads(stored))


class User(BaseModel):
    """A registered user, as lookups show it. Times are those of the records that were applied."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    id: UserId
    name: Name
    email: Email
    status: Literal["registered"]
    registered_at: datetime
    updated_at: datetime
    version: int
    position: str

    def encode(self) -> bytes:
        """Return the user as JSON bytes."""
        return self.model_dump_json().encode()


def public(stored: bytes) -> User:
    """Return what may be shown of a stored row."""
    return User.model_validate_json(stored)


@lru_cache(maxsize=4096)
def moment(timestamp_ms: int) -> str:
    """Return a record's timestamp (ms since 1970) as text; out-of-range ones become the nearest."""
    clamped = min(max(timestamp_ms, 0), _LAST_TIMESTAMP_MS)
    at = datetime.fromtimestamp(clamped // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{clamped % 1000:03}Z"


#: What a pattern wants, in words: pydantic's own text would show the pattern.
_PATTERN_DETAIL = {
    "id": "Must not contain control characters",
    "email": "Must be an email address, such as ada@example.com",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with an input: where, why, and pydantic's name for it."""

    location: tuple[int | str, ...]
    detail: str
    type: str

    @property
    def pointer(self) -> str:
        """The location as a JSON pointer (RFC 6901)."""
        escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in self.location)
        return "".join(f"/{part}" for part in escaped)


def field_errors(error: ValidationError) -> list[FieldError]:
    """Return what is wrong with an input, without repeating the input: it may be personal."""
    return [
        _field_error(found["loc"], found["msg"], found["type"])
        for found in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _field_error(location: tuple[int | str, ...], message: str, kind: str) -> FieldError:
    if kind == "string_too_short":
        message = "Must not be empty"
    elif kind == "string_pattern_mismatch" and location:
        message = _PATTERN_DETAIL.get(str(location[-1]), message)
    return FieldError(location, message, kind)
