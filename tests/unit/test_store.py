"""The store: rows by partition, atomic with their offset, closed for sure, within one budget."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rocksdict import Rdict

from app.config import registry as registry_settings
from app.config.settings import Settings
from app.domain.errors import NotReadyError, StoreError
from app.ops.recover.changelog import _opened as opened_by_an_operator
from app.ops.verify.stores import Store
from local.places import PROJECT
from tables.store import MAX_IDLE_SECONDS, PartitionedStore, StoreOptions
from tests.support.disk import full_disk
from tests.support.stores import open_store
from tests.support.worker import wait_until

MIB = 1024 * 1024


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartitionedStore]:
    """Return an empty store."""
    opened = open_store(tmp_path)
    for partition in (0, 1, 3, 4):
        opened.open(partition)
    yield opened
    opened.close(range(16))


def test_a_row_is_found_in_its_partition_only(store: PartitionedStore) -> None:
    store.apply(3, {b"ada": b"row"}, 7)
    assert store.read(3, b"ada") == b"row"
    assert store.read(4, b"ada") is None
    assert store.read_many(3, [b"eve", b"ada", b"eve"]) == [None, b"row", None]


def test_no_rows_are_found_for_no_keys(store: PartitionedStore) -> None:
    assert store.read_many(3, []) == []


def test_rows_and_offset_survive_a_reopening(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    first.open(0)
    first.apply(0, {b"a": b"1", b"b": b"2"}, 41)
    first.apply(0, {b"b": None}, 42)
    first.close([0])
    second = open_store(tmp_path)
    second.open(0)
    second.open(1)
    assert second.read_many(0, [b"a", b"b"]) == [b"1", None]
    assert second.offset(0) == 42
    assert second.offset(1) is None
    second.close([0, 1])


def test_a_partition_that_leaves_can_be_opened_by_another_at_once(
    store: PartitionedStore, tmp_path: Path
) -> None:
    store.apply(0, {b"a": b"1"}, 0)
    store.apply(1, {b"b": b"2"}, 0)
    with pytest.raises(Exception, match="lock"):
        Rdict(str(tmp_path / "users-0"))
    store.close_others([1])
    other = open_store(tmp_path)
    other.open(0)
    assert other.read(0, b"a") == b"1"
    other.close([0])
    assert store.read(1, b"b") == b"2"


async def test_a_store_that_was_stopped_is_not_opened_again(store: PartitionedStore) -> None:
    store.apply(0, {b"a": b"1"}, 0)
    await store.stop()
    with pytest.raises(NotReadyError):
        store.open(0)
    with pytest.raises(NotReadyError):
        store.read(0, b"a")


def test_a_partition_that_is_not_held_is_not_opened_by_reading_or_writing(
    store: PartitionedStore, tmp_path: Path
) -> None:
    with pytest.raises(NotReadyError):
        store.read(7, b"a")
    with pytest.raises(NotReadyError):
        store.apply(7, {b"a": b"1"}, 0)
    assert not (tmp_path / "users-7").exists()


def age(folder: Path, seconds: float) -> None:
    """Let a folder and what is in it look as if nobody had touched it for some time."""
    then = time.time() - seconds
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


def test_a_store_is_too_old_if_nobody_kept_it_for_long(
    store: PartitionedStore, tmp_path: Path
) -> None:
    assert not store.is_too_old(9)  # there is none
    store.apply(0, {b"a": b"1"}, 0)
    age(tmp_path / "users-0", MAX_IDLE_SECONDS + 60)
    assert not store.is_too_old(0)  # it is open: whoever holds it keeps it up to date
    store.close([0])
    assert not store.is_too_old(0)
    age(tmp_path / "users-0", MAX_IDLE_SECONDS + 60)
    assert store.is_too_old(0)


def test_a_store_is_too_old_if_a_wrong_clock_kept_it_far_in_the_future(
    store: PartitionedStore, tmp_path: Path
) -> None:
    store.apply(0, {b"a": b"1"}, 0)
    store.close([0])
    age(tmp_path / "users-0", -3600)
    assert not store.is_too_old(0)
    age(tmp_path / "users-0", -MAX_IDLE_SECONDS - 60)
    assert store.is_too_old(0)


def test_a_store_whose_disk_was_full_goes_on_once_it_is_opened_again(
    store: PartitionedStore,
) -> None:
    store.apply(0, {b"a": b"1"}, 0)
    with full_disk(os.getpid(), 64 * 1024):
        with pytest.raises(StoreError, match="File too large"):
            store.apply(0, {b"b": b"2" * 128 * 1024}, 1)
        with pytest.raises(NotReadyError):
            store.read(0, b"a")
    store.open(0)
    assert (store.read_many(0, [b"a", b"b"]), store.offset(0)) == ([b"1", None], 0)
    store.apply(0, {b"b": b"2"}, 1)
    assert store.offset(0) == 1


async def test_what_is_loaded_in_bulk_is_there_and_what_follows_is_too(
    store: PartitionedStore, tmp_path: Path
) -> None:
    async with store.bulk_load(0):
        for at in range(20):
            store.apply(0, {b"%d" % n: b"%d" % at for n in range(at, at + 3)}, at)
    assert store.read_many(0, [b"0", b"19", b"21", b"22"]) == [b"0", b"19", b"19", None]
    assert store.offset(0) == 19
    store.apply(0, {b"0": None}, 20)
    copied = tmp_path / "copied"
    # As a killed process leaves it: the files, and the log of what came after the load.
    shutil.copytree(tmp_path / "users-0", copied / "users-0")
    left = open_store(copied)
    left.open(0)
    assert left.read_many(0, [b"0", b"1", b"21"]) == [None, b"1", b"19"]
    assert left.offset(0) == 20
    left.close([0])


DIES_WHILE_IT_LOADS = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.support.stores import open_store
from tests.unit.test_store import LOADED_ROWS

async def load():
    store = open_store(Path(sys.argv[1]))
    store.open(0)
    async with store.bulk_load(0):
        for at, rows in enumerate(LOADED_ROWS):
            store.apply(0, rows, at)
        # RocksDB has the first rows in files by now, and the last ones in memory only.
        while not store.size_bytes():
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(load())
"""
#: More than a memtable holds.
LOADED_ROWS = [{b"%06d" % (at * 100 + n): bytes(1_000) for n in range(100)} for at in range(250)]


def test_a_crash_in_a_bulk_load_leaves_a_beginning_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES_WHILE_IT_LOADS, str(tmp_path)]
    died = subprocess.run(command, cwd=PROJECT, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    with opened_by_an_operator(Store(tmp_path / "users-0", "users", 0)) as database:
        assert database[b"000000"] == bytes(1_000)
    left = open_store(tmp_path)
    left.open(0)
    offset = left.offset(0)
    assert offset is not None
    assert 0 < offset < len(LOADED_ROWS) - 1
    for at, rows in enumerate(LOADED_ROWS):
        found = [row is not None for row in left.read_many(0, [*rows])]
        assert found == [at <= offset] * len(rows)
    left.apply(0, {b"more": b"1"}, offset + 1)
    assert left.read(0, b"more") == b"1"
    left.close([0])


async def test_a_bulk_load_that_fails_is_told_and_closes_the_store(
    store: PartitionedStore,
) -> None:
    with full_disk(os.getpid(), 64 * 1024), pytest.raises(StoreError):
        async with store.bulk_load(0):
            store.apply(0, {b"a": os.urandom(128 * 1024)}, 0)
    with pytest.raises(NotReadyError):
        store.read(0, b"a")
    store.open(0)
    assert (store.read(0, b"a"), store.offset(0)) == (None, None)


def test_a_store_that_is_destroyed_is_empty_and_alone_in_that(store: PartitionedStore) -> None:
    store.apply(0, {b"a": b"1"}, 5)
    store.apply(1, {b"b": b"2"}, 6)
    store.destroy(0)
    store.open(0)
    assert store.read(0, b"a") is None
    assert store.offset(0) is None
    assert store.read(1, b"b") == b"2"


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
    store.open(0)
    assert store.read(0, b"a") is None


def test_all_partitions_share_one_memory_budget(tmp_path: Path) -> None:
    shared = StoreOptions.of(Settings(cache_mib=8, write_buffer_mib=32))
    store = open_store(tmp_path, options=shared)
    try:
        for partition in range(8):
            store.open(partition)
            for number in range(16):
                rows = {f"{number}-{i}".encode(): bytes(1024) for i in range(1000)}
                store.apply(partition, rows, number)
                store.read_many(partition, list(rows))

        def within_budget() -> bool:
            # RocksDB looks at the budget when something is written, and flushes in the background.
            for partition in range(8):
                store.apply(partition, {}, 99)
            return bool(shared.write_buffers.get_usage() < 40 * MIB)

        wait_until(within_budget, 10, "of 128 MiB that were written, buffers hold the budget")
        assert shared.block_cache.get_usage() < 12 * MIB
    finally:
        store.close(range(8))


def test_what_is_pending_hides_what_is_stored(store: PartitionedStore) -> None:
    store.apply(0, {b"a": b"1", b"b": b"2", b"c": b"3"}, 0)
    pending = {b"a": b"new", b"b": None, b"z": b"another's"}
    assert store.with_pending(0, [b"a", b"b", b"c", b"d", b"a"], pending) == {
        b"a": b"new",
        b"c": b"3",
    }


def test_keys_of_a_range_come_in_order_and_no_more_than_wanted(store: PartitionedStore) -> None:
    store.apply(0, {b"p%d" % n: b"" for n in (5, 1, 3, 9)} | {b"q": b""}, 0)
    assert store.keys_between(0, b"p", b"p9", 10) == [b"p1", b"p3", b"p5"]
    assert store.keys_between(0, b"p2", b"z", 2) == [b"p3", b"p5"]


def test_what_was_deleted_leaves_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry_settings, "TIDY_TIMES", 24 * 3600)  # each second
    store = open_store(tmp_path)
    secret = os.urandom(40).hex().encode()

    def holds_it(path: Path) -> bool:
        # RocksDB deletes files in threads of its own.
        with contextlib.suppress(FileNotFoundError):
            return path.is_file() and secret in path.read_bytes()
        return False

    def is_in_files() -> bool:
        return any(map(holds_it, tmp_path.rglob("*")))

    def is_gone() -> bool:
        store.apply(0, {b"marker": str(time.time()).encode()}, 2)
        store.tidy()
        return not is_in_files()

    store.open(0)
    try:
        store.apply(0, {b"ada": secret}, 0)
        store.tidy()
        assert is_in_files()
        store.apply(0, {b"ada": None}, 1)
        wait_until(is_gone, 20, "the row has left the files")
    finally:
        store.close([0])


def test_a_store_that_others_have_for_long_is_deleted(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for partition in range(3):
        store.open(partition)
    store.close([0, 1])
    long_ago = time.time() - 25 * 3600
    for folder in (tmp_path / "users-0", tmp_path / "users-2"):
        for path in (folder, *folder.glob("*.log")):
            os.utime(path, (long_ago, long_ago))
    store.tidy()  # one of them is open: it is kept, however long nothing came
    assert sorted(path.name for path in tmp_path.iterdir()) == ["users-1", "users-2"]
    store.close([2])
