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

#: What headers and the record's own framing may take of the largest dead letter.
_ROOM_FOR_FRAMING_BYTES = 64 * 1024
_MAX_DETAIL_CHARACTERS = 1_000

#: The first of our headers. Those of the original stand before it, whatever they are called.
SOURCE_TOPIC_HEADER = "source-topic"
CAUSE_HEADER = "error"
DETAIL_HEADER = "error-detail"
TIMESTAMP_HEADER = "source-timestamp-ms"
KEY_HEADER = "original-key"
NO_VALUE_HEADER = "original-value-is-null"
#: Of a record too large to keep (it came compressed), the letter has only the size, here: the
#: original stands at the position that the headers name.
TRUNCATED_HEADER = "too-large-bytes"

#: Of an original with a header name that is not UTF-8, all headers are here, as `pack` has them:
#: what stands in the letter can be read by everybody.
HEADERS_HEADER = "original-headers"

#: What of a letter is left once its user was erased, or it was replayed: this header, no bytes.
MARK_HEADER = "mark"
ERASED = "erased"
REPLAYED = "replayed"
#: Of a letter that was replayed: where its original stands now.
REPLAYED_AS_HEADER = "replayed-as"


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Makes dead letters of the records of one topic, for another.

    A letter's key names its record, so that a mark takes the letter's place when the topic is
    compacted.
    """

    source: str
    topic: str

    def letter(
        self, partition: int, arrival: ConsumedRecord, error: UnreadableRecordError
    ) -> Outgoing:
        """Return the dead letter for a record that could not be applied, its bytes unchanged."""
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
        """Return what takes the place of a letter, with none of its bytes."""
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
    """A record as it came, before it was a dead letter."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    #: Whether it is too large to be read: its key and value are not here.
    is_cut: bool = False

    @classmethod
    def of(cls, record: ConsumedRecord) -> Self:
        """Return a record that was read where it came in."""
        is_cut = isinstance(record, UnreadableRecord) and record.cause == TOO_LARGE
        return cls(
            record.offset, record.timestamp, record.key, record.value, record.headers, is_cut
        )


#: What names a letter: the topic and position of its original.
Name = tuple[str, Position]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, or the mark that took its place."""

    #: Where the original stands, or stood.
    topic: str
    position: Position
    cause: str
    detail: str
    #: When it became a letter, or was marked, in ms since 1970.
    timestamp: int
    #: Of key, value and headers of an original that is too large, of key and value of others.
    size: int
    too_large: bool
    mark: str | None
    replayed_as: str | None
    #: The id that the original names, if it is here.
    id: str | None
    #: The name of the key that the original was written with, if it is here.
    by: str | None
    #: Where the letter itself stands in its partition.
    offset: int
    #: None if it is too large, marked, or left out.
    original: Original | None

    @classmethod
    def read(cls, record: ConsumedRecord) -> Self | None:
        """Return the letter in a record of the dead-letter topic; None if it is none of ours."""
        named = _named(record.key)
        headers = list(record.headers)
        # The last one: the original may have had a header of any name.
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
            # Few are different, and many letters are held at a time.
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
        """What names it."""
        return self.topic, self.position

    @property
    def is_open(self) -> bool:
        """Whether it was neither replayed nor erased."""
        return self.mark is None

    def without_bytes(self) -> Self:
        """Return it as it is kept while many are read."""
        return replace(self, original=None)


def _headers_before(before: Headers, told: Mapping[str, bytes]) -> Headers:
    packed = told.get(HEADERS_HEADER)
    return before if packed is None else unpack(packed)


def _named(key: bytes | None) -> Name | None:
    """Return the topic and position that a letter's key names."""
    try:
        topic, slash, token = (key or b"").decode().rpartition("/")
        return (topic, Position.parse(token)) if slash else None
    except (UnicodeDecodeError, InvalidPositionError):
        return None


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode(errors="replace")


def _number(header: bytes | None) -> int:
    # The topic is open to others, too: what is no number of ours is none.
    text = (header or b"").decode(errors="replace")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0


def _size(original: Original | None) -> int:
    return 0 if original is None else len(original.key or b"") + len(original.value or b"")
