"""Dead letters as records: making, marking and reading them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from sys import intern
from typing import Self

from app.domain.authors import author_of
from app.domain.consumed_records import (
    TOO_LARGE,
    ConsumedRecord,
    UnreadableRecord,
    are_text,
    bytes_of,
    pack,
    unpack,
)
from app.domain.errors import InvalidPositionError, UnreadableRecordError
from app.domain.parsing import id_of
from app.domain.positions import Position
from app.domain.records import Headers, Outgoing
from app.kafka.topics import MAX_DEAD_LETTER_BYTES

#: The part of the largest dead letter that headers and framing may take.
_ROOM_FOR_FRAMING_BYTES = 64 * 1024
_MAX_DETAIL_CHARACTERS = 1_000

#: The first header of this project. Headers of the original are before it, whatever their names.
SOURCE_TOPIC_HEADER = "source-topic"
CAUSE_HEADER = "error"
DETAIL_HEADER = "error-detail"
TIMESTAMP_HEADER = "source-timestamp-ms"
KEY_HEADER = "original-key"
NO_VALUE_HEADER = "original-value-is-null"
#: Set if the original is too large to keep (it came compressed). It holds the size. The original is
#: at the position that the other headers name.
TRUNCATED_HEADER = "too-large-bytes"

#: Set if a header name of the original is not UTF-8. It holds all headers, as `pack` encodes them,
#: so that every client can read the letter.
HEADERS_HEADER = "original-headers"

#: Set once a letter was replayed, or its user erased. Then the letter has no bytes of the original.
MARK_HEADER = "mark"
ERASED = "erased"
REPLAYED = "replayed"
#: The new position of a replayed original.
REPLAYED_AS_HEADER = "replayed-as"


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Makes the dead letters of one topic's records.

    A letter's key names its record, so that compaction replaces the letter by its mark.
    """

    source: str
    topic: str

    def letter(
        self, partition: int, arrival: ConsumedRecord, error: UnreadableRecordError
    ) -> Outgoing:
        """Return the dead letter of a record that cannot be applied, with the bytes unchanged."""
        position = Position(partition, arrival.offset)
        reasons = [
            *self._source_of(position),
            *_headers(
                {
                    CAUSE_HEADER: error.cause,
                    DETAIL_HEADER: str(error)[:_MAX_DETAIL_CHARACTERS],
                    TIMESTAMP_HEADER: arrival.timestamp,
                }
            ),
        ]
        packed = None if are_text(arrival.headers) else pack(arrival.headers)
        size = len(arrival.key or b"") + len(arrival.value or b"")
        size += bytes_of(arrival.headers) if packed is None else len(packed)
        if isinstance(arrival, UnreadableRecord) and arrival.cause == TOO_LARGE:
            size = arrival.size
        if size > MAX_DEAD_LETTER_BYTES - _ROOM_FOR_FRAMING_BYTES:
            reasons.append((TRUNCATED_HEADER, str(size).encode()))
            return self._outgoing(position, b"", reasons)
        if arrival.key is not None:
            reasons.append((KEY_HEADER, arrival.key))
        if arrival.value is None:
            reasons.append((NO_VALUE_HEADER, b"1"))
        if packed is not None:
            reasons.append((HEADERS_HEADER, packed))
            return self._outgoing(position, arrival.value or b"", reasons)
        return self._outgoing(position, arrival.value or b"", [*arrival.headers, *reasons])

    def mark(self, position: Position, mark: str, more: Headers = ()) -> Outgoing:
        """Return the mark that replaces a letter. It has none of the letter's bytes."""
        headers = [*self._source_of(position), (MARK_HEADER, mark.encode()), *more]
        return self._outgoing(position, b"", headers)

    def _outgoing(self, position: Position, value: bytes, headers: Headers) -> Outgoing:
        key = f"{self.source}/{position.token()}".encode()
        return Outgoing(self.topic, position.partition, key, value, None, headers)

    def _source_of(self, position: Position) -> Headers:
        return _headers(
            {
                SOURCE_TOPIC_HEADER: self.source,
                "source-partition": position.partition,
                "source-offset": position.offset,
                "source-position": position.token(),
            }
        )


def _headers(values: Mapping[str, object]) -> list[tuple[str, bytes]]:
    return [(name, str(value).encode()) for name, value in values.items()]


@dataclass(frozen=True, slots=True)
class Original:
    """A record as it was before it became a dead letter."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    #: Whether it was too large to keep: key and value are missing.
    is_cut: bool = False

    @classmethod
    def of(cls, record: ConsumedRecord) -> Self:
        """Return the original of a record that was read from its own topic."""
        is_cut = isinstance(record, UnreadableRecord) and record.cause == TOO_LARGE
        return cls(
            record.offset, record.timestamp, record.key, record.value, record.headers, is_cut
        )


#: A letter's name: the topic and position of its original.
Name = tuple[str, Position]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, or the mark that replaced it."""

    #: The topic of the original.
    topic: str
    position: Position
    cause: str
    detail: str
    #: When the record became a letter, or was marked, in ms since 1970.
    timestamp: int
    #: The size of key and value; with headers if the original is too large.
    size: int
    too_large: bool
    mark: str | None
    replayed_as: str | None
    #: The id in the original, if the original is here.
    id: str | None
    #: The name of the access key that the original was written with, if the original is here.
    by: str | None
    #: The offset of the letter itself.
    offset: int
    #: None if the letter is marked, the original is too large, or its bytes were left out.
    original: Original | None

    @classmethod
    def read(cls, record: ConsumedRecord) -> Self | None:
        """Return the letter in a record; None if another program wrote the record."""
        named = _named(record.key)
        headers = list(record.headers)
        # Use the last one: the original may have a header of the same name.
        ours = next(
            (i for i in reversed(range(len(headers))) if headers[i][0] == SOURCE_TOPIC_HEADER), None
        )
        if named is None or ours is None:
            return None
        topic, position = named
        told = dict(headers[ours:])
        mark = _text(told.get(MARK_HEADER))
        too_large = TRUNCATED_HEADER in told
        original = None
        if mark is None and not too_large:
            original = Original(
                position.offset,
                _number(told.get(TIMESTAMP_HEADER)),
                told.get(KEY_HEADER),
                None if NO_VALUE_HEADER in told else record.value,
                _headers_before(headers[:ours], told),
            )
        return cls(
            # Most of these texts are equal, and many letters are in memory at once.
            intern(topic),
            position,
            intern(_text(told.get(CAUSE_HEADER)) or ""),
            intern(_text(told.get(DETAIL_HEADER)) or ""),
            record.timestamp,
            _number(told.get(TRUNCATED_HEADER)) if too_large else _size(original),
            too_large,
            mark,
            _text(told.get(REPLAYED_AS_HEADER)),
            None if original is None else id_of(original),
            None if original is None else author_of(original.headers),
            record.offset,
            original,
        )

    @property
    def name(self) -> Name:
        """The name of the letter."""
        return self.topic, self.position

    @property
    def is_open(self) -> bool:
        """Whether it was neither replayed nor erased."""
        return self.mark is None

    def without_bytes(self) -> Self:
        """Return the letter without the original, to keep many of them in memory."""
        return replace(self, original=None)


def _headers_before(before: Headers, told: Mapping[str, bytes]) -> Headers:
    packed = told.get(HEADERS_HEADER)
    return before if packed is None else unpack(packed)


def _named(key: bytes | None) -> Name | None:
    """Return the topic and position in a letter's key; None if the key is of another form."""
    try:
        topic, slash, token = (key or b"").decode().rpartition("/")
        return (topic, Position.parse(token)) if slash else None
    except (UnicodeDecodeError, InvalidPositionError):
        return None


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode(errors="replace")


def _number(header: bytes | None) -> int:
    # Other programs may write to the topic, too. A text that is no number counts as none.
    text = (header or b"").decode(errors="replace")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0


def _size(original: Original | None) -> int:
    return 0 if original is None else len(original.key or b"") + len(original.value or b"")
