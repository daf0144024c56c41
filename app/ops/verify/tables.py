"""The rows of a table, pure: the newest record of each key in its changelog.

For each row it keeps a digest, the changelog offset, the day on which a user has registered, and a
hash of who holds which address. A partition of a million users takes a quarter of a gigabyte, and
only one is in memory at a time.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from app.domain.addresses import EmailKeys
from app.domain.consumed_records import ConsumedRecord
from app.domain.counts import day_of, is_counted
from app.domain.decisions import attempt_of
from app.domain.email_claims import decode_holder
from app.domain.records import decode_row
from app.engine.marker import (
    COUNT_KEY,
    MOVES_PREFIX,
    OUTCOMES_PREFIX,
    PAGE_RECORDS,
    RESERVED_PREFIX,
)
from app.ops.verify.multisets import Multiset

#: The bytes that an offset, a digest, and a day (counted from the year 1) take.
_OFFSET_BYTES = 8
_DIGEST_BYTES = 16
_DAY_BYTES = 4
_HASH_BYTES = 8

#: In place of the outcome of a record whose predecessors are gone.
UNJUDGED = 255

#: Returns who holds which address according to a row; None if nobody does.
Holding = Callable[[bytes, bytes], Hashable | None]

#: Errors of a row that no worker of ours has written.
_NO_ROW = (ValueError, LookupError, TypeError, AttributeError)


def digest(row: bytes) -> bytes:
    """Return a digest of a row's bytes."""
    return hashlib.blake2b(row, digest_size=_DIGEST_BYTES).digest()


def kept(offset: int, row: bytes) -> bytes:
    """Return a row or a digest behind an offset."""
    return offset.to_bytes(_OFFSET_BYTES, "big") + row


def offset_of(kept_row: bytes) -> int:
    """Return the offset in a kept row."""
    return int.from_bytes(kept_row[:_OFFSET_BYTES], "big")


def row_of(kept_row: bytes) -> bytes:
    """Return the row in a kept row."""
    return kept_row[_OFFSET_BYTES:]


def digest_of(kept_row: bytes) -> bytes:
    """Return the digest in a kept row."""
    return kept_row[_OFFSET_BYTES : _OFFSET_BYTES + _DIGEST_BYTES]


def digested(rows: MutableMapping[bytes, bytes]) -> None:
    """Replace rows by their digests, to free memory."""
    for key, row in rows.items():
        rows[key] = kept(offset_of(row), digest(row_of(row)))


@dataclass(slots=True)
class TableFold:
    """One partition of a table, as its changelog has it."""

    partition: int
    holding: Holding | None = None
    #: Returns the day on which the user in a row has registered; 0 if the row is that of no user.
    day: Callable[[bytes], int] = lambda row: 0

    #: By key: changelog offset, digest, day, hash of the address that is held.
    rows: dict[bytes, bytes] = field(default_factory=dict)
    #: Outcomes by page; new positions of moved records by offset.
    pages: dict[int, bytes] = field(default_factory=dict)
    moves: dict[int, bytes] = field(default_factory=dict)
    #: The count of users, behind its changelog offset.
    count: bytes | None = None

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Fold the next changelog records."""
        for record in records:
            key, row = record.key or b"", record.value
            if key == COUNT_KEY:
                self.count = None if row is None else kept(record.offset, row)
            elif key.startswith(RESERVED_PREFIX):
                self._keep_book(key, row)
            elif row is None:
                self.rows.pop(key, None)
            else:
                day = self.day(row).to_bytes(_DAY_BYTES, "big")
                self.rows[key] = kept(record.offset, digest(row) + day + self._held(key, row))

    def add_bookkeeping(self, records: Sequence[ConsumedRecord]) -> None:
        """Fold the next changelog records, without the rows of users."""
        self.add([record for record in records if (record.key or b"").startswith(RESERVED_PREFIX)])

    def _keep_book(self, key: bytes, row: bytes | None) -> None:
        for prefix, book in ((OUTCOMES_PREFIX, self.pages), (MOVES_PREFIX, self.moves)):
            if key.startswith(prefix):
                number = int.from_bytes(key[len(prefix) :], "big")
                if row is None:
                    book.pop(number, None)
                else:
                    book[number] = row

    def _held(self, key: bytes, row: bytes) -> bytes:
        held = None if self.holding is None else self.holding(key, row)
        return b"" if held is None else hash(held).to_bytes(_HASH_BYTES, "big", signed=True)

    def add_holders(self, holders: Multiset) -> None:
        """Add which user holds which address."""
        for row in self.rows.values():
            held = row[_OFFSET_BYTES + _DIGEST_BYTES + _DAY_BYTES :]
            if held:
                said = int.from_bytes(held, "big", signed=True)
                holders.add_hash(said, self.partition, offset_of(row))

    def days(self) -> Iterator[str]:
        """Yield the day of each user's registration."""
        for row in self.rows.values():
            day = row[_OFFSET_BYTES + _DIGEST_BYTES :][:_DAY_BYTES]
            if any(day):
                yield date.fromordinal(int.from_bytes(day, "big")).isoformat()

    def outcome(self, offset: int) -> int:
        """Return the outcome of a record that the table keeps, 0 if there is none."""
        page = self.pages.get(offset // PAGE_RECORDS, b"")
        index = offset % PAGE_RECORDS
        return page[index] if index < len(page) else 0


def registration_day(row: bytes) -> int:
    """Return the day on which the user in a row has registered; 0 if the row is that of no user."""
    try:
        user = decode_row(row)
        return date.fromisoformat(day_of(user)).toordinal() if is_counted(user) else 0
    except _NO_ROW:
        return 0


@dataclass(slots=True)
class HeldByUsers:
    """Returns the address that a row of ``users`` holds: that of a registered user."""

    email_keys: EmailKeys
    #: Who holds which address according to ``emails``.
    in_emails: Multiset
    #: How many rows hold their address under the key of version 0.8.
    as_0_8_did: int = 0

    def __call__(self, _: bytes, row: bytes) -> Hashable | None:
        """Return who holds which address according to a row; None if nobody does."""
        try:
            user = decode_row(row)
            if user["status"] != "registered":
                return None
            holder = user["id"], attempt_of(user)
            earlier = self.email_keys.key_of_0_8(user["email"])
            if earlier is not None and self.in_emails.has((earlier, *holder)):
                self.as_0_8_did += 1
                return earlier, *holder
            return self.email_keys.key(user["email"]), *holder
        except _NO_ROW:
            return None


def held_in_emails(key: bytes, row: bytes) -> Hashable | None:
    """Return who holds an address according to a row of ``emails``."""
    try:
        holder = decode_holder(row)
        return key, holder["id"], holder["attempt"]
    except _NO_ROW:
        # The row is malformed, so nobody holds it.
        return key
