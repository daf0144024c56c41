"""The stores on this machine, against the changelog that they are copies of.

A store may be behind: it is compared with what the changelog said at the store's offset. That is
known row by row: compaction removes old records from the beginning on, so whatever record of a key
is left below the offset is the newest of those that were there. Only where none is left, and there
is one above, nobody can tell any more what the store must have.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rocksdict import AccessType, Options, Rdict

from app.engine.marker import MARKER_KEY, RESERVED_PREFIX
from app.errors import SettingsError, StoreError
from app.preflight import locked
from app.registration import Arrival
from app.verify.comparison import Names, place
from app.verify.findings import Difference, Findings
from app.verify.fold import digest, kept, offset_of
from app.verify.reading import Extent, Reader

#: Where a store keeps the changelog offset up to which it holds everything (tables/store.py).
_OFFSET_KEY = RESERVED_PREFIX + b"offset"
_DATABASES = "*/tables/users-*"


@dataclass(frozen=True, slots=True)
class Store:
    """One partition's database."""

    path: Path
    partition: int


@contextmanager
def held(folders: Sequence[Path]) -> Iterator[list[Store]]:
    """Yield the stores in data folders, and keep workers away from the folders meanwhile.

    Raises `SettingsError` where a worker runs, or where there is no store.
    """
    with ExitStack() as locks:
        stores: list[Store] = []
        for folder in folders:
            found = _stores(folder)
            locks.enter_context(locked(folder))
            stores.extend(found)
        yield stores


def _stores(folder: Path) -> list[Store]:
    # Before the lock is taken, which would make the folder.
    numbered = [(path, path.name.rpartition("-")[2]) for path in folder.glob(_DATABASES)]
    found = [Store(path, int(number)) for path, number in numbered if number.isdecimal()]
    if not found:
        raise SettingsError(f"--stores: {folder} holds no store of users; name a worker's DATA_DIR")
    return sorted(found, key=lambda store: store.partition)


@dataclass(slots=True)
class ChangelogAt:
    """What a changelog said at an offset (None: at its beginning)."""

    offset: int | None
    rows: dict[bytes, bytes] = field(default_factory=dict)
    #: Keys of records above the offset.
    changed_since: set[bytes] = field(default_factory=set)
    last: int = -1

    @property
    def is_last(self) -> bool:
        """Whether nothing was written since."""
        return self.last <= self._offset

    @property
    def _offset(self) -> int:
        return -1 if self.offset is None else self.offset

    def add(self, records: Sequence[Arrival]) -> None:
        """Fold changelog records, which follow those before."""
        for record in records:
            if record.key is not None and _is_compared(record.key):
                self._add(record.key, record.value, record.offset)
        if records:
            self.last = records[-1].offset

    def _add(self, key: bytes, row: bytes | None, offset: int) -> None:
        if offset > self._offset:
            self.changed_since.add(key)
        elif row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = kept(digest(row), offset)


def _is_compared(key: bytes) -> bool:
    return key == MARKER_KEY or not key.startswith(RESERVED_PREFIX)


@dataclass(slots=True)
class StoreComparison:
    """Compares the rows of a store with the changelog at the store's offset."""

    store: Store
    changelog: ChangelogAt
    names: Names
    findings: Findings
    rows: int = 0
    unchecked: int = 0

    def add(self, key: bytes, row: bytes) -> None:
        """Compare one row of the store; each comes once."""
        if not _is_compared(key):
            return
        self.rows += key != MARKER_KEY
        expected = self.changelog.rows.pop(key, None)
        if expected is not None:
            if kept(digest(row), offset_of(expected)) != expected:
                self._differs(Difference.STORE_DIFFERENT_ROW, key, offset_of(expected))
        elif self.changelog.is_last:
            self._differs(Difference.STORE_EXTRA_ROW, key)
        else:
            # Its record, or the mark of its deletion, may have been removed by compaction.
            self.unchecked += 1

    def finish(self) -> None:
        """Call what is left of the changelog missing."""
        for key, expected in self.changelog.rows.items():
            self._differs(Difference.STORE_MISSING_ROW, key, offset_of(expected))

    def _differs(self, difference: Difference, key: bytes, offset: int | None = None) -> None:
        where = f"{self.store.path}"
        if offset is not None:
            where += f", {place(self.names.changelog, self.store.partition, offset)}"
        if key == MARKER_KEY:
            self.findings.differs(difference, f"{where} (the applied marker)")
        else:
            self.findings.differs(difference, where, key)


async def compare_store(
    store: Store, extent: Extent, reader: Reader, names: Names, findings: Findings
) -> None:
    """Compare one store with its partition of the changelog."""
    with _opened(store.path) as database:
        changelog = ChangelogAt(_offset_of(store.path, database))
        if changelog.offset is not None and changelog.offset >= extent.end:
            where = f"{store.path} is at {changelog.offset}, its changelog ends at {extent.end}"
            findings.differs(Difference.STORE_AHEAD, where)
        async for records in reader.read(extent):
            changelog.add(records)
        comparison = StoreComparison(store, changelog, names, findings)
        _compare_rows(database, comparison)
    comparison.finish()
    _tell(comparison, findings)


def _tell(comparison: StoreComparison, findings: Findings) -> None:
    behind = "" if comparison.changelog.is_last else ", behind its changelog"
    findings.notes.append(f"{comparison.store.path}: {comparison.rows:,} rows{behind}")
    if comparison.unchecked:
        findings.unchecked.append(
            f"{comparison.store.path}: {comparison.unchecked:,} rows: the changelog no longer has "
            "what it said at the store's offset"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Rdict]:
    # Read-only: nothing in the folder changes, nor does the time that tells how old a store is.
    with _told_as_store_error(path):
        database = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only())
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _told_as_store_error(path: Path) -> Iterator[None]:
    # rocksdict raises bare Exceptions; their texts speak of files, never of rows.
    try:
        yield
    except Exception as error:
        raise StoreError(f"{path} cannot be read: {error}") from None


def _offset_of(path: Path, database: Rdict) -> int | None:
    with _told_as_store_error(path):
        stored = database.get(_OFFSET_KEY)
        return None if stored is None else int(stored)


def _compare_rows(database: Rdict, comparison: StoreComparison) -> None:
    with _told_as_store_error(comparison.store.path):
        for key, row in cast("Iterator[tuple[bytes, bytes]]", database.items()):
            comparison.add(key, row)
