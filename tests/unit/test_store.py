"""The store: rows by partition, atomic with their offset, closed for sure, within one budget."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP
from rocksdict import Rdict

from app.errors import NotReadyError
from app.settings import Settings
from tables import store as store_module
from tables.store import PartitionedStore

MIB = 1024 * 1024
CHANGELOG = "changelog"


def open_store(folder: Path) -> PartitionedStore:
    """Return a store in a folder, as Faust would make it."""
    app = cast(Any, SimpleNamespace(conf=SimpleNamespace(tabledir=folder), loop=None))
    topic = SimpleNamespace(get_topic_name=lambda: CHANGELOG)
    table = cast(Any, SimpleNamespace(name="users", changelog_topic=topic))
    return PartitionedStore("registry://", app, table)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartitionedStore]:
    """Return an empty store."""
    opened = open_store(tmp_path)
    yield opened
    opened.close(range(16))


def message(partition: int, offset: int, key: bytes, value: bytes | None) -> Any:
    """Return a changelog event."""
    return SimpleNamespace(
        message=SimpleNamespace(partition=partition, offset=offset, key=key, value=value)
    )


def test_a_row_is_found_in_its_partition_only(store: PartitionedStore) -> None:
    store.apply(3, {b"ada": b"row"}, 7)
    assert store.read(3, b"ada") == b"row"
    assert store.read(4, b"ada") is None
    assert store.read_many(3, [b"eve", b"ada", b"eve"]) == [None, b"row", None]


def test_no_rows_are_found_for_no_keys(store: PartitionedStore) -> None:
    assert store.read_many(3, []) == []


def test_rows_and_offset_survive_a_reopening(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    first.apply(0, {b"a": b"1", b"b": b"2"}, 41)
    first.apply(0, {b"b": None}, 42)
    first.close([0])
    second = open_store(tmp_path)
    assert second.read_many(0, [b"a", b"b"]) == [b"1", None]
    assert second.persisted_offset(TP(CHANGELOG, 0)) == 42
    assert second.persisted_offset(TP(CHANGELOG, 1)) is None
    second.close([0, 1])


def test_recovery_writes_the_last_row_of_each_key_and_the_last_offset(
    store: PartitionedStore,
) -> None:
    changes = [
        message(0, 5, b"a", b"1"),
        message(1, 9, b"a", b"other"),
        message(0, 6, b"a", b"2"),
        message(0, 8, b"b", b"3"),
        message(0, 7, b"c", None),
    ]
    store.apply_changelog_batch(changes, lambda key: key, lambda value: value)
    assert store.read_many(0, [b"a", b"b", b"c"]) == [b"2", b"3", None]
    assert store.read(1, b"a") == b"other"
    assert store.persisted_offset(TP(CHANGELOG, 0)) == 8


async def test_a_partition_that_leaves_can_be_opened_by_another_at_once(
    store: PartitionedStore, tmp_path: Path
) -> None:
    store.apply(0, {b"a": b"1"}, 0)
    store.apply(1, {b"b": b"2"}, 0)
    with pytest.raises(Exception, match="lock"):
        Rdict(str(tmp_path / "users-0"))
    await store.on_rebalance({TP(CHANGELOG, 1), TP("else", 0)}, {TP(CHANGELOG, 0)}, set())
    other = open_store(tmp_path)
    assert other.read(0, b"a") == b"1"
    other.close([0])
    assert store.read(1, b"b") == b"2"


async def test_a_store_that_was_stopped_is_not_opened_again(store: PartitionedStore) -> None:
    store.apply(0, {b"a": b"1"}, 0)
    await store.stop()
    with pytest.raises(NotReadyError):
        store.read(0, b"a")


def test_fausts_dictionary_shows_rows_and_not_the_offset(store: PartitionedStore) -> None:
    store.apply(0, {b"a": b"1"}, 0)
    store.apply(1, {b"b": b"2"}, 0)
    assert sorted(store._iteritems()) == [(b"a", b"1"), (b"b", b"2")]
    assert store._size() == 2
    assert store._contains(b"b")
    with pytest.raises(TypeError):
        store._set(b"c", b"3")


def test_a_reset_removes_the_rows(store: PartitionedStore) -> None:
    store.apply(0, {b"a": b"1"}, 0)
    store.reset_state()
    assert store.read(0, b"a") is None


def test_all_partitions_share_one_memory_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = Settings(cache_mib=8, write_buffer_mib=32)
    monkeypatch.setattr(store_module, "settings", lambda: small)
    store_module._shared_memory.cache_clear()
    store = open_store(tmp_path)
    try:
        block_cache, write_buffers = store_module._shared_memory()
        for partition in range(8):
            for number in range(16):
                rows = {f"{number}-{i}".encode(): bytes(1024) for i in range(1000)}
                store.apply(partition, rows, number)
                store.read_many(partition, list(rows))
        assert write_buffers.get_usage() < 48 * MIB  # of 128 MiB written
        assert block_cache.get_usage() < 12 * MIB
    finally:
        store.close(range(8))
        store_module._shared_memory.cache_clear()
