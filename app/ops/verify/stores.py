"""Compares stores on this machine with their changelogs.

A store may be behind its changelog, so it is compared with the changelog at the store's offset.
That is known for each row: compaction removes old records from the beginning on, so a record that
is left below the offset is the newest one that was there. If none is left below and there is one
above, the row of the store cannot be checked.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rocksdict import AccessType, Options, Rdict

from app.domain.consumed_records import ConsumedRecord
from app.domain.errors import SettingsError, StoreError
from app.engine.marker import MARKER_KEY, RESERVED_PREFIX
from app.kafka.partition_reader import Extent, Reader
from app.ops.verify.findings import Difference, Findings
from app.ops.verify.places import place
from app.ops.verify.tables import digest, digest_of, kept, offset_of
from app.worker.preflight import locked

#: The key under which a store keeps its changelog offset (tables/store.py).
OFFSET_KEY = RESERVED_PREFIX + b"offset"


@dataclass(frozen=True, slots=True)
class Store:
    """The database of one partition of a table."""

    path: Path
    table: str
    partition: int


@contextmanager
def held(folders: Sequence[Path], tables: Sequence[str]) -> Iterator[list[Store]]:
    """Yield the stores of tables in data folders, and lock the folders against workers.

    Raises `SettingsError` if a worker runs, or there is no store.
    """
    with ExitStack() as locks:
        stores: list[Store] = []
        for folder in folders:
            found = _stores(folder, tables)
            locks.enter_context(locked(folder))
            stores.extend(found)
        yield stores


def _stores(folder: Path, tables: Sequence[str]) -> list[Store]:
    # Search before the lock is taken, because the lock would create the folder.
    found = [
        Store(path, table, int(number))
        for path in folder.glob("*/tables/*-*")
        for table, _, number in [path.name.rpartition("-")]
        if table in tables and number.isdecimal()
    ]
    if not found:
        raise SettingsError(f"{folder} holds no store; name a worker's DATA_DIR")
    return sorted(found, key=lambda store: (tables.index(store.table), store.partition))


@dataclass(slots=True)
class ChangelogAt:
    """The content of a changelog at an offset (None: at its beginning), for all keys."""

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

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Fold the next changelog records."""
        for record in records:
            if record.key is not None:
                self._add(record.key, record.value, record.offset)
        if records:
            self.last = records[-1].offset

    def _add(self, key: bytes, row: bytes | None, offset: int) -> None:
        if offset > self._offset:
            self.changed_since.add(key)
        elif row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = kept(offset, digest(row))


@dataclass(slots=True)
class StoreComparison:
    """Compares the rows of a store with the changelog at the store's offset."""

    store: Store
    changelog: ChangelogAt
    topic: str
    findings: Findings
    rows: int = 0
    unchecked: int = 0

    def add(self, key: bytes, row: bytes) -> None:
        """Compare one row of the store. Each row comes once."""
        if key == OFFSET_KEY:
            return
        self.rows += not key.startswith(RESERVED_PREFIX)
        expected = self.changelog.rows.pop(key, None)
        if expected is not None:
            if digest_of(expected) != digest(row):
                self._differs(Difference.STORE_DIFFERENT_ROW, key, offset_of(expected))
        elif self.changelog.is_last:
            self._differs(Difference.STORE_EXTRA_ROW, key)
        else:
            # Compaction may have removed its record, or its tombstone.
            self.unchecked += 1

    def finish(self) -> None:
        """Report the rows of the changelog that the store lacks."""
        for key, expected in self.changelog.rows.items():
            self._differs(Difference.STORE_MISSING_ROW, key, offset_of(expected))

    def _differs(self, difference: Difference, key: bytes, offset: int | None = None) -> None:
        where = f"{self.store.path}"
        if offset is not None:
            where += f", {place(self.topic, self.store.partition, offset)}"
        if key == MARKER_KEY:
            self.findings.differs(difference, f"{where} (the applied marker)")
        else:
            self.findings.differs(difference, where, key)


async def compare_store(store: Store, extent: Extent, reader: Reader, findings: Findings) -> None:
    """Compare one store with its partition of the changelog."""
    with _opened(store.path) as database:
        changelog = ChangelogAt(_offset_of(store.path, database))
        if changelog.offset is not None and changelog.offset >= extent.end:
            where = f"{store.path} is at {changelog.offset}, its changelog ends at {extent.end}"
            findings.differs(Difference.STORE_AHEAD, where)
        async for records in reader.read(extent):
            changelog.add(records)
        comparison = StoreComparison(store, changelog, extent.topic, findings)
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
    # Read-only: it changes nothing in the folder, also not the time that shows the store's age.
    with _told_as_store_error(path):
        database = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only())
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _told_as_store_error(path: Path) -> Iterator[None]:
    # rocksdict raises bare Exceptions. Their texts name files, and never rows.
    try:
        yield
    except Exception as error:
        raise StoreError(f"{path} cannot be read: {error}") from None


def _offset_of(path: Path, database: Rdict) -> int | None:
    with _told_as_store_error(path):
        stored = database.get(OFFSET_KEY)
        return None if stored is None else int(stored)


def _compare_rows(database: Rdict, comparison: StoreComparison) -> None:
    with _told_as_store_error(comparison.store.path):
        for key, row in cast("Iterator[tuple[bytes, bytes]]", database.items()):
            comparison.add(key, row)
