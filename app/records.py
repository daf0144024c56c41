"""What travels: each record type is written once, and serves Kafka, HTTP and the pages alike."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

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


class Record(BaseModel):
    """The root of the types below: strict about types, tolerant of members it does not know."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    def encode(self) -> bytes:
        """Return the record as the JSON bytes that travel."""
        return self.model_dump_json().encode()


class Registration(Record):
    """A wish to register a user: the value of a record in ``user-registrations``."""

    id: UserId
    name: Name
    email: Email
    # No `type` means a registration; other types are not for this model. It does not travel.
    type: Literal["registration"] = Field(default="registration", exclude=True)

    @property
    def key(self) -> bytes:
        """The record key: the id's UTF-8 bytes."""
        return encode_key(self.id)

    def digest(self) -> str:
        """Return 32 hex digits that are equal for equal data and for nothing else.

        Each field is preceded by its length, so that no two different registrations share bytes.
        """
        fields = [field.encode() for field in (self.id, self.name, self.email)]
        framed = b"".join([len(field).to_bytes(4, "big") + field for field in fields])
        return hashlib.blake2b(framed, digest_size=16).hexdigest()


#: Reads a registration from a record's value, without what `BaseModel` puts around each call.
_registrations = TypeAdapter(Registration)


def read_registration(value: bytes) -> Registration:
    """Return the registration in JSON bytes, or raise `pydantic.ValidationError`."""
    read: Registration = _registrations.validator.validate_json(value)
    return read


class User(Record):
    """A registered user, as lookups show it. Times are those of the records that were applied."""

    id: UserId
    name: Name
    email: Email
    status: Literal["registered"]
    registered_at: datetime
    updated_at: datetime
    version: int
    position: str


@dataclass(slots=True)
class UserRow:
    """A row of the table ``users``: the user and the digest of its first registration.

    Not a pydantic model: rows are made from what was validated already, a hundred thousand a
    second, and a model costs four times as much. Reading one back validates it.
    """

    id: str
    name: str
    email: str
    status: Literal["registered"]
    registered_at: datetime
    updated_at: datetime
    version: int
    position: str
    first_digest: str

    def encode(self) -> bytes:
        """Return the row as JSON bytes."""
        return orjson.dumps(self, option=orjson.OPT_UTC_Z)

    @classmethod
    def decode(cls, stored: bytes) -> "UserRow":
        """Return the row in JSON bytes."""
        return _rows.validate_json(stored)

    def public(self) -> User:
        """Return what may be shown of the row."""
        return User.model_construct(**{name: getattr(self, name) for name in User.model_fields})


_rows = TypeAdapter(UserRow)


@lru_cache(maxsize=4096)
def moment(timestamp_ms: int) -> datetime:
    """Return a record's timestamp (ms since 1970) in UTC; out-of-range ones become the nearest."""
    clamped = min(max(timestamp_ms, 0), _LAST_TIMESTAMP_MS)
    return datetime.fromtimestamp(clamped // 1000, UTC).replace(microsecond=clamped % 1000 * 1000)


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
