"""Bringing a store up to date: every row once, from where the store stands, and no further."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from faust.types import TP

from app.domain.errors import LostChangelogError
from app.engine import changelog
from app.engine.changelog import Changelog, Reading, newest_marker
from app.engine.marker import MARKER_KEY, Marker
from app.kafka.transactions import Rows
from tests.support import batches
from tests.support.hand_made_batches import Row, batch
from tests.unit.test_fetching import FakeCluster, Partition

CHANGELOG = TP("users-changelog", 0)
SOURCES = ["user-registrations"]


@dataclass
class Store:
    """A store in memory, of one partition."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    at: int | None = None
    too_old: bool = False
    #: The keys that were written, in order.
    written: list[bytes] = field(default_factory=list)
    loaded: list[bytes] = field(default_factory=list)
    destroyed: int = 0

    def open(self, partition: int) -> None:
        """Be open always."""

    def destroy(self, partition: int) -> None:
        """Delete the rows."""
        self.rows, self.at = {}, None
        self.destroyed += 1

    def read(self, partition: int, key: bytes) -> bytes | None:
        """Return a row."""
        return self.rows.get(key)

    def offset(self, partition: int) -> int | None:
        """Return up to where it holds everything."""
        return self.at

    def is_too_old(self, partition: int) -> bool:
        """Return whether it was idle for long."""
        return self.too_old

    def apply(self, partition: int, rows: Rows, changelog_offset: int) -> None:
        """Take rows."""
        self.rows |= rows
        self.written += rows
        self.at = changelog_offset

    @asynccontextmanager
    async def bulk_load(self, partition: int) -> AsyncIterator[None]:
        """Take note of what is loaded in bulk."""
        before = len(self.written)
        yield
        self.loaded += self.written[before:]


class Log:
    """A changelog: each transaction has rows and a marker, and a control record behind them."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.cluster.know(CHANGELOG)
        self.marker = Marker.first().after(SOURCES[0], 0)

    @property
    def log(self) -> Partition:
        """The partition."""
        return self.cluster.partitions[CHANGELOG]

    def commit(self, *keys: bytes) -> int:
        """Write rows; return the offset of the marker behind them."""
        self.marker = self.marker.after(SOURCES[0], self.marker.next[SOURCES[0]] + 1)
        rows = [*((key, b"row of %b" % key) for key in keys), (MARKER_KEY, self.marker.encode())]
        base = self.log.end
        made: list[Row] = [(base + n, 0, key, row, []) for n, (key, row) in enumerate(rows)]
        self.log.batches.append(batch(made, producer=1, base=base))
        self.log.end += len(rows)
        self.end_transaction()
        return self.log.end - 2

    def end_transaction(self) -> None:
        """Write a control record."""
        self.log.batches.append(batches.marker(self.log.end, 1))
        self.log.end += 1

    # -- as the barrier

    async def end_of(self, changelog: TP, sources: Sequence[TP]) -> int:
        """Return the end."""
        return self.log.end

    async def recover(self, store: Store) -> Marker | None:
        """Bring a store up to date."""
        recover = Changelog(CHANGELOG.topic, cast(Any, store)).recover
        reading = Reading(cast(Any, self.cluster), cast(Any, self))
        return await recover(reading, 0, SOURCES, lambda rows, left: None)


async def test_only_a_new_store_that_lacks_much_is_loaded_in_bulk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changelog, "BULK_RECORDS", 4)
    log, few, many = Log(), Store(), Store()
    log.commit(b"a")
    await log.recover(few)
    log.commit(b"b")
    log.commit(b"c")
    for store in (few, many):
        await log.recover(store)
        assert {b"a", b"b", b"c"} < store.rows.keys()
    assert few.loaded == []
    assert {*many.loaded} == {b"a", b"b", b"c", MARKER_KEY}


async def test_a_new_store_gets_all_rows_and_stands_at_the_end() -> None:
    log, store = Log(), Store()
    log.commit(b"a", b"b")
    log.commit(b"c")
    assert await log.recover(store) == log.marker
    assert {b"a", b"b", b"c"} < store.rows.keys()
    # The control record at the end was read as well, and what comes next was not.
    assert store.at == log.log.end - 1


async def test_a_store_goes_on_where_it_stands_and_misses_nothing() -> None:
    log, store = Log(), Store()
    log.commit(b"a", b"b")
    await log.recover(store)
    store.written.clear()
    log.commit(b"c")
    assert await log.recover(store) == log.marker
    assert store.written == [b"c", MARKER_KEY]
    assert store.destroyed == 0


async def test_a_store_that_stands_at_its_own_marker_goes_on_behind_it() -> None:
    """A cycle notes the offset of the marker, and not that of the control record."""
    log, store = Log(), Store()
    store.at = log.commit(b"a")
    store.rows = {b"a": b"row of a", MARKER_KEY: log.marker.encode()}
    # Of a transaction of another producer, which shares no batch: directly behind the marker.
    log.commit(b"b")
    assert await log.recover(store) == log.marker
    assert store.written == [b"b", MARKER_KEY]


async def test_a_store_that_is_too_old_is_made_anew() -> None:
    log, store = Log(), Store()
    log.commit(b"a")
    await log.recover(store)
    store.rows[b"erased"], store.too_old = b"row", True
    await log.recover(store)
    assert (store.destroyed, b"erased" in store.rows) == (1, False)


async def test_a_store_that_has_more_than_its_changelog_is_kept() -> None:
    log, store = Log(), Store()
    log.commit(b"a")
    await log.recover(store)
    with pytest.raises(LostChangelogError, match="has more than its changelog"):
        await Log().recover(store)
    assert (store.destroyed, b"a" in store.rows) == (0, True)


@pytest.mark.parametrize("at_once", [1, 2_000])
async def test_the_newest_marker_is_found_behind_control_records(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changelog, "MAX_RECORDS", at_once)
    log = Log()
    log.commit(b"a")
    log.commit(b"b")
    for _ in range(40):
        log.end_transaction()
    found = await newest_marker(cast(Any, log.cluster), CHANGELOG, 0, log.log.end)
    assert found == log.marker


async def test_a_changelog_without_a_marker_has_none() -> None:
    log = Log()
    for _ in range(3):
        log.end_transaction()
    assert await newest_marker(cast(Any, log.cluster), CHANGELOG, 0, log.log.end) is None
