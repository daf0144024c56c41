"""Outcomes of records, one byte each, in pages: rows of the table ``users``.

So they are written, recovered and followed with the rows that they speak of, at next to no cost.
A page, or where a record was moved, is kept for as long as the record is.
"""

from collections.abc import Iterable, Mapping

from app.domain.outcomes import Decided, Outcome
from app.engine.marker import MOVES_PREFIX, OUTCOMES_PREFIX, PAGE_RECORDS, move_key, page_key
from app.kafka.transactions import Rows
from tables.store import PartitionedStore

#: The most rows that one transaction removes.
_MAX_REMOVED = 10_000


class RecordOutcomes:
    """Typed access to the outcomes of the records of ``user-registrations``."""

    def __init__(self, store: PartitionedStore) -> None:
        self._store = store

    def find(self, partition: int, offset: int) -> Outcome | None:
        """Return what became of a record; None if no such record is known, or not any more."""
        page = self._store.read(partition, page_key(offset // PAGE_RECORDS))
        code = page[offset % PAGE_RECORDS] if page else 0
        return Outcome(code) if code else None

    def moved_to(self, partition: int, offset: int) -> str | None:
        """Return the position that a moved record has now."""
        found = self._store.read(partition, move_key(offset))
        return None if found is None else found.decode()

    def with_new(
        self, partition: int, decided: Iterable[Decided], pending: Rows
    ) -> Mapping[bytes, bytes]:
        """Return the pages that outcomes change; a later outcome of a record replaces an earlier.

        ``pending`` holds the pages that are not in the store yet.
        """
        pages: dict[int, bytearray] = {}
        for offset, _, outcome in decided:
            number = offset // PAGE_RECORDS
            page = pages.get(number)
            if page is None:
                page = pages[number] = self._page(partition, page_key(number), pending)
            page[offset % PAGE_RECORDS] = outcome
        return {page_key(number): bytes(page) for number, page in pages.items()}

    def _page(self, partition: int, key: bytes, pending: Rows) -> bytearray:
        stored = pending.get(key) or self._store.read(partition, key)
        return bytearray(stored or bytes(PAGE_RECORDS))

    def superfluous(self, partition: int, log_start: int) -> Iterable[bytes]:
        """Return the keys of rows that only tell of records below an offset, some of many."""
        end = page_key(log_start // PAGE_RECORDS)
        pages = self._store.keys_between(partition, OUTCOMES_PREFIX, end, _MAX_REMOVED)
        return [
            *pages,
            *self._store.keys_between(partition, MOVES_PREFIX, move_key(log_start), _MAX_REMOVED),
        ]
