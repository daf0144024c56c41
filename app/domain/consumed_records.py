"""Consumed records, pure: as Kafka returned them, readable or not."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol, cast

import orjson

from app.domain.compact import dumps
from app.domain.errors import UnreadableRecordError
from app.domain.records import Headers

#: Causes that make a record unreadable whatever its value is. They are stable words.
UNREADABLE_HEADER = "unreadable-header"
TOO_LARGE = "too-large"
FALSE_OFFSET = "false-offset"
UNREADABLE_RECORD = "unreadable-record"

#: Holds all headers of a record that we wrote again, if a header name is not UTF-8. No client could
#: write or read these headers. The record stays unreadable.
PACKED_HEADERS_HEADER = "packed-headers"

_DETAILS = {
    UNREADABLE_HEADER: "A header has a name that is not UTF-8",
    TOO_LARGE: "The record is too large to be read",
    FALSE_OFFSET: "The record says that it stands at another offset",
    UNREADABLE_RECORD: "The record, or one before it in its batch, is not of Kafka's format",
}


class ConsumedRecord(Protocol):
    """A record of a partition, from aiokafka's parser or from ours."""

    @property
    def offset(self) -> int:
        """The offset in its partition."""
        ...

    @property
    def timestamp(self) -> int:
        """The time in ms since 1970."""
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


class UnreadableRecord(NamedTuple):
    """A record that cannot be read; ``cause`` is a stable word for the reason.

    Header names that are not UTF-8 are decoded with ``surrogateescape``, so no byte is lost. A
    record that is too large has only its place and its size.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    cause: str
    size: int

    @property
    def error(self) -> UnreadableRecordError:
        """The error that says why."""
        return UnreadableRecordError(self.cause, _DETAILS[self.cause])


def require_readable(records: Sequence[ConsumedRecord]) -> None:
    """Raise `UnreadableRecordError` if one of many records is unreadable."""
    # This runs for every batch, and nearly no batch has an unreadable record.
    if UnreadableRecord in set(map(type, records)):
        for record in records:
            if isinstance(record, UnreadableRecord):
                raise record.error


# -- headers


def is_text(name: str) -> bool:
    """Return whether a header name is UTF-8, as all readers and writers need it."""
    # Only surrogates, which stand for other bytes, are not UTF-8.
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def are_text(headers: Headers) -> bool:
    """Return whether all header names are UTF-8."""
    return all(is_text(name) for name, _ in headers)


def pack(headers: Headers) -> bytes:
    """Return headers of any names as one value: a JSON list of pairs, names and values in base64.

    A missing value is null.
    """
    named = [(name.encode(errors="surrogateescape"), value) for name, value in headers]
    return dumps([(_base64(name), _base64(value)) for name, value in named])


def unpack(packed: bytes) -> Headers:
    """Return the headers that were packed; none if the value is not a packed list."""
    try:
        return [
            (str(b64decode(name), errors="surrogateescape"), _unpacked(value))
            for name, value in orjson.loads(packed)
        ]
    except (ValueError, TypeError):
        return []


def _unpacked(value: str | None) -> bytes:
    # A header without a value is rare, and `bytes` is its type everywhere.
    return cast(bytes, None if value is None else b64decode(value))


def writable(headers: Headers) -> Headers:
    """Return headers that every client can write and read: unchanged, or packed in one header."""
    return headers if are_text(headers) else [(PACKED_HEADERS_HEADER, pack(headers))]


def as_they_were(records: Sequence[ConsumedRecord]) -> Sequence[ConsumedRecord]:
    """Return records with the headers that they had before packing."""
    return [_as_it_was(record) for record in records] if any(map(_HEADERS, records)) else records


_HEADERS = attrgetter("headers")


def _as_it_was(record: ConsumedRecord) -> ConsumedRecord:
    packed = dict(record.headers).get(PACKED_HEADERS_HEADER)
    if packed is None or isinstance(record, UnreadableRecord):
        return record
    added = [header for header in record.headers if header[0] != PACKED_HEADERS_HEADER]
    return UnreadableRecord(
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        [*unpack(packed), *added],
        UNREADABLE_HEADER,
        len(record.value or b""),
    )


def _base64(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()


def bytes_of(headers: Headers) -> int:
    """Return the size of headers in bytes."""
    return sum(len(name) + len(value or b"") for name, value in headers)
