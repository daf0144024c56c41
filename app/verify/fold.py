"""The folds, pure: what the records of one partition come to, and what its changelog says.

Neither holds more of a row than digests and an offset: a partition of a million users takes half a
gigabyte, and only one partition is folded at a time.
"""

import hashlib
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self, cast

import orjson
from pydantic import ValidationError

from app.engine.marker import MARKER_KEY, RESERVED_PREFIX, Marker
from app.errors import InvalidPositionError
from app.positions import CURRENT_GENERATION, Position
from app.records import Registration, UserRow, encode, encode_row
from app.registration import MOVED_FROM_HEADER, Arrival, Decision, decide, first_row, sort

#: Of a digest or row: the bytes that are kept.
DIGEST_BYTES = 16
_OFFSET_BYTES = 8
#: Stands for the digest of a row that a record made which is gone from the log.
UNCHECKED = bytes(DIGEST_BYTES)


def digest(row: bytes) -> bytes:
    """Return what stands for a row's bytes."""
    return hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest()


def kept(row_digest: bytes, offset: int) -> bytes:
    """Return what is kept of a row: its digest and where it stands, in as few bytes as go."""
    return row_digest + offset.to_bytes(_OFFSET_BYTES, "big")


def offset_of(kept_row: bytes) -> int:
    """Return the offset in what is kept of a row."""
    return int.from_bytes(kept_row[DIGEST_BYTES : DIGEST_BYTES + _OFFSET_BYTES], "big")


class Offsets:
    """Many offsets of one partition, eight bytes each."""

    def __init__(self) -> None:
        self.all = array("Q")

    def add(self, offset: int) -> None:
        """Add an offset."""
        self.all.append(offset)

    @classmethod
    def joined(cls, several: Iterable["Offsets"]) -> Self:
        """Return the offsets of several."""
        joined = cls()
        for offsets in several:
            joined.all.extend(offsets.all)
        return joined

    def within(self, start: int, end: int) -> Counter[int]:
        """Return how often each offset of a range was added."""
        return Counter(offset for offset in self.all if start <= offset < end)


@dataclass(slots=True)
class SourceFold:
    """One partition of ``user-registrations``, decided up to ``until`` (None: to its end)."""

    partition: int
    partitions: int
    until: int | None = None
    #: Partitions whose beginning is gone: a copy that is not there may have been there.
    begun_late: Collection[int] = ()

    #: By key: digest of the row, offset of the record, digest of its data.
    rows: dict[bytes, bytes] = field(default_factory=dict)
    decisions: Counter[Decision] = field(default_factory=Counter)
    unreadable: Offsets = field(default_factory=Offsets)
    moved: Offsets = field(default_factory=Offsets)
    #: Moved to partitions that have begun late.
    moved_perhaps: Offsets = field(default_factory=Offsets)
    #: Where the records stood of which copies are here, by partition.
    copies: defaultdict[int, Offsets] = field(default_factory=lambda: defaultdict(Offsets))
    foreign_copies: int = 0
    records: int = 0
    not_applied: int = 0

    def add(self, records: Sequence[Arrival]) -> None:
        """Fold records, which follow those before."""
        for record in records:
            if record.headers:
                self._note_copy(record)
        applied = self._to_apply(records)
        self.records += len(records)
        self.not_applied += len(records) - len(applied)
        if applied:
            self._decide(applied)

    def _to_apply(self, records: Sequence[Arrival]) -> Sequence[Arrival]:
        if self.until is None:
            return records
        return records[: bisect_left(records, self.until, key=lambda record: record.offset)]

    def _note_copy(self, record: Arrival) -> None:
        origin = _origin(record)
        if origin is None:
            return
        if isinstance(origin, Position) and origin.partition < self.partitions:
            self.copies[origin.partition].add(origin.offset)
        else:
            self.foreign_copies += 1

    def _decide(self, records: Sequence[Arrival]) -> None:
        """Decide records as the agent does: the one place that asks `app.registration`."""
        batch = sort(self.partition, records, self.partitions)
        for key, (record, registration) in zip(batch.keys, batch.here, strict=True):
            decision = decide(self._row(key, registration), registration)
            self.decisions[decision] += 1
            if decision is Decision.REGISTERED:
                row = encode_row(first_row(self.partition, record, registration))
                self.rows[key] = kept(digest(row), record.offset) + _data(registration)
        for record, _ in batch.unreadable:
            self.unreadable.add(record.offset)
        for record, _, home in batch.elsewhere:
            (self.moved_perhaps if home in self.begun_late else self.moved).add(record.offset)

    def _row(self, key: bytes, registration: Registration) -> UserRow | None:
        """Return the row of a key as far as decisions ask: whether it has the same data."""
        known = self.rows.get(key)
        if known is None:
            return None
        same = known[DIGEST_BYTES + _OFFSET_BYTES :] == _data(registration)
        return cast(UserRow, registration if same else _OTHER_DATA)


#: Stands for a row with other data: no registration has an empty name.
_OTHER_DATA = {"name": "", "email": ""}


def _data(registration: Registration) -> bytes:
    return digest(encode(registration))


class _NoPosition:
    """A header that names no position of this registry: another producer's."""


_NO_POSITION = _NoPosition()


def _origin(record: Arrival) -> Position | _NoPosition | None:
    for name, token in record.headers:
        if name == MOVED_FROM_HEADER:
            try:
                position = Position.parse((token or b"").decode())
            except (InvalidPositionError, UnicodeDecodeError):
                return _NO_POSITION
            return position if position.generation == CURRENT_GENERATION else _NO_POSITION
    return None


@dataclass(slots=True)
class TableFold:
    """One partition of the table ``users``, as its changelog gives it."""

    partition: int
    #: Where the log of the registrations begins today: what made older rows is gone.
    source_start: int = 0

    #: By key: digest of the row, offset in the changelog.
    rows: dict[bytes, bytes] = field(default_factory=dict)
    marker: Marker | None = None
    #: Where a marker stands that cannot be read.
    bad_marker: int | None = None

    def add(self, records: Sequence[Arrival]) -> None:
        """Fold changelog records, which follow those before."""
        for record in records:
            key, row = record.key, record.value
            if key is None or key.startswith(RESERVED_PREFIX):
                if key == MARKER_KEY:
                    self._mark(record)
            elif row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = kept(self._digest(row), record.offset)

    def _digest(self, row: bytes) -> bytes:
        if self.source_start and self._made_before(row):
            return UNCHECKED
        return digest(row)

    def _made_before(self, row: bytes) -> bool:
        """Return whether the row says that a record made it which is gone from the log."""
        try:
            position = Position.parse(orjson.loads(row)["position"])
        except (orjson.JSONDecodeError, InvalidPositionError, KeyError, TypeError, AttributeError):
            return False
        return position.partition == self.partition and position.offset < self.source_start

    def _mark(self, record: Arrival) -> None:
        self.marker, self.bad_marker = None, None
        if record.value is None:
            return
        try:
            self.marker = Marker.decode(record.value)
        except ValidationError:
            self.bad_marker = record.offset


class Letter(NamedTuple):
    """Which record a dead letter is of."""

    partition: int
    offset: int


@dataclass(slots=True)
class LetterFold:
    """The dead letters of one topic, by the partition and offset that their headers name."""

    source_topic: str
    letters: defaultdict[int, Offsets] = field(default_factory=lambda: defaultdict(Offsets))
    records: int = 0
    #: Records in the topic that are no letter of this topic's records.
    others: int = 0

    def add(self, records: Sequence[Arrival]) -> None:
        """Fold records of the dead-letter topic."""
        self.records += len(records)
        for record in records:
            letter = self._letter(record)
            if letter is None:
                self.others += 1
            else:
                self.letters[letter.partition].add(letter.offset)

    def _letter(self, record: Arrival) -> Letter | None:
        # The original's headers come first, and may have the same names.
        headers = dict(record.headers)
        if headers.get("source-topic") != self.source_topic.encode():
            return None
        partition, offset = (headers.get(f"source-{name}") for name in ("partition", "offset"))
        if not (_is_number(partition) and _is_number(offset)):
            return None
        return Letter(int(cast(bytes, partition)), int(cast(bytes, offset)))


def _is_number(header: bytes | None) -> bool:
    # No longer than Kafka's offsets, which have 63 bits.
    return header is not None and header.isdigit() and len(header) <= 19
