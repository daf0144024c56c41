"""The store of the tables: one RocksDB for each partition, within one memory budget.

Faust finds it by the URL scheme ``registry://`` (entry point ``faust.stores``). Stock Faust gives
each partition of each table a block cache of 2 GiB of its own and writes row and changelog offset
apart; here a worker has one cache and one write-buffer budget, and a batch of rows and the offset
of its last changelog record are one atomic write.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Self, cast

import structlog
from faust.stores.base import SerializedStore
from faust.types import TP, AppT, CollectionT
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    MemtableFactory,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from app.config.settings import Settings
from app.domain.errors import NotReadyError, RegistryError, StoreError, Unavailable
from app.engine.marker import RESERVED_PREFIX
from app.kafka.topics import CHANGELOG_DELETE_RETENTION_HOURS
from app.kafka.transactions import Rows

log = structlog.get_logger(__name__)

#: Where a store keeps the changelog offset up to which it holds everything.
_OFFSET_KEY = RESERVED_PREFIX + b"offset"

#: A store that was kept by nobody for longer is rebuilt: half of what Kafka keeps deletions for.
MAX_IDLE_SECONDS = CHANGELOG_DELETE_RETENTION_HOURS * 3600 / 2

_MIB = 1024 * 1024
#: Files kept open per partition; more would only save re-reading their index blocks.
_MAX_OPEN_FILES = 64
#: What one partition may buffer before it is flushed; the budget of the worker binds first.
_WRITE_BUFFER_BYTES = 16 * _MIB
_MAX_WAL_BYTES = 64 * _MIB
_BLOOM_BITS_PER_KEY = 10
#: How often it is looked whether all rows of a bulk load are in files.
_FLUSH_POLL_SECONDS = 0.005


@contextmanager
def _told_as_store_error() -> Iterator[None]:
    # rocksdict raises bare Exceptions; their texts speak of files, never of rows.
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        raise StoreError(str(error)) from None


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What all stores of a worker share: its block cache and write buffers, and how they age."""

    block_cache: Cache
    write_buffers: WriteBufferManager
    #: Each file is rewritten in this time, without what was deleted or written anew since.
    tidy_seconds: float
    #: A folder of a partition that others have is deleted after so long.
    erase_after_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the settings ask for."""
        return cls(
            Cache(settings.cache_mib * _MIB),
            WriteBufferManager(settings.write_buffer_mib * _MIB, False),
            settings.tidy_seconds,
            settings.erase_within_hours * 3600,
        )

    def as_mapping(self) -> Mapping[str, Any]:
        """Return these as the options that Faust hands from a table to its store."""
        return {_SHARED: self}


#: The one option that a store has.
_SHARED = "shared"


def _rocksdb_options(shared: StoreOptions) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(shared.block_cache)
    table.set_cache_index_and_filter_blocks(True)
    table.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_manager(shared.write_buffers)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_total_wal_size(_MAX_WAL_BYTES)
    options.set_max_open_files(_MAX_OPEN_FILES)
    # After a power cut the newest writes may be gone, and those alone; see docs/decisions/store.md.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_keep_log_file_num(2)
    options.set_compression_type(DBCompressionType.lz4())
    return options


def _bulk_options(shared: StoreOptions) -> Options:
    """Return options for rows that nobody reads yet: RocksDB sorts them once, when it flushes them.

    It does so in a thread of its own. A sorted memtable costs this process 2 µs for each row.
    """
    options = _rocksdb_options(shared)
    options.set_memtable_factory(MemtableFactory.vector())
    options.set_allow_concurrent_memtable_write(False)
    return options


def _opened(path: Path, options: Options) -> Rdict:
    # Else a database that exists would keep the options that it was made with.
    return Rdict(str(path), options=options, column_families={"default": options})


def _closed(database: Rdict) -> bool:
    """Close a database; return whether all that was written to it is on the disk."""
    try:
        with _told_as_store_error():
            database.close()
    except StoreError as error:
        # It is closed all the same, and what is missing is in the changelog.
        log.warning("a store is closed without its newest rows", cause=str(error))
        return False
    return True


def _last_kept(folder: Path) -> float:
    """Return when a store that is closed was last kept up to date, in seconds since 1970."""
    # A close touches the folder; a killed worker leaves the time of its last write, in the WAL.
    return max(path.stat().st_mtime for path in (folder, *folder.glob("*.log")))


class PartitionedStore(SerializedStore[bytes, bytes]):
    """A table's rows on disk, asked and written by partition: never guessed from the key."""

    def __init__(self, url: Any, app: AppT, table: CollectionT, **kwargs: Any) -> None:
        super().__init__(url, app, table, **kwargs)
        self._shared: StoreOptions = (self.options or {})[_SHARED]
        self._databases: dict[int, Rdict] = {}

    # -- what agents and lookups use

    def read(self, partition: int, key: bytes) -> bytes | None:
        """Return the row under a key of a partition, or None."""
        with _told_as_store_error():
            return cast("bytes | None", self._database(partition).get(key))

    def read_many(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the rows under several keys of a partition, in their order."""
        with _told_as_store_error():
            return cast("list[bytes | None]", self._database(partition).get(list(keys)))

    def with_pending(
        self, partition: int, keys: Sequence[bytes], pending: Rows
    ) -> dict[bytes, bytes]:
        """Return the rows that keys have, by key: pending ones, else the partition's."""
        stored = zip(keys, self.read_many(partition, keys), strict=True)
        found = {key: row for key, row in stored if row is not None}
        if not pending.keys().isdisjoint(keys):
            for key in keys:
                row = pending.get(key)
                if row is not None:
                    found[key] = row
                elif key in pending:
                    found.pop(key, None)
        return found

    def keys_between(self, partition: int, first: bytes, end: bytes, limit: int) -> list[bytes]:
        """Return the first keys of a range, in order: from ``first`` on, below ``end``."""
        with _told_as_store_error():
            keys = cast("Iterator[bytes]", self._database(partition).keys(from_key=first))
            return list(islice(takewhile(lambda key: key < end, keys), limit))

    def rows_between(
        self, partition: int, first: bytes, end: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys and rows of a range, in order: from ``first`` on, below ``end``."""
        with _told_as_store_error():
            rows = self._database(partition).items(from_key=first)
            yield from takewhile(
                lambda row: row[0] < end, cast("Iterator[tuple[bytes, bytes]]", rows)
            )

    def apply(self, partition: int, rows: Rows, changelog_offset: int) -> None:
        """Write rows (None deletes) and the offset of their last changelog record, atomically."""
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        for key, row in rows.items():
            if row is None:
                batch.delete(key)
            else:
                put(key, row)
        put(_OFFSET_KEY, str(changelog_offset).encode())
        try:
            with _told_as_store_error():
                self._database(partition).write(batch)
        except StoreError:
            # RocksDB may refuse all that follows, even with room again, until it is opened anew.
            self.close([partition])
            raise

    @asynccontextmanager
    async def bulk_load(self, partition: int) -> AsyncIterator[None]:
        """Apply many rows to an empty store faster: without a log, sorted when they are flushed.

        Nothing may be read meanwhile. If the process dies, or the block fails, the store keeps some
        of the first batches, with the offset of the last of them.
        """
        self._reopen(partition, _bulk_options(self._shared))
        no_log: Any = WriteOptions()  # its stub takes this attribute for a method
        no_log.disable_wal = True
        self._database(partition).set_write_options(no_log)
        try:
            yield
            await self._flushed(partition)
        finally:
            self.close([partition])
        # Only now, or what is logged from now on could outlive what came before it.
        self.open(partition)

    async def _flushed(self, partition: int) -> None:
        database = self._database(partition)
        with _told_as_store_error():
            database.flush(wait=False)
            while database.property_int_value("rocksdb.num-immutable-mem-table"):
                if database.property_int_value("rocksdb.background-errors"):
                    raise StoreError("the rows of a bulk load cannot be flushed")
                await asyncio.sleep(_FLUSH_POLL_SECONDS)

    # -- the life of a database: from its partition's coming to its going

    def open(self, partition: int) -> None:
        """Open a partition's database, which may be open already."""
        if partition in self._databases:
            return
        if self.should_stop:
            raise NotReadyError(Unavailable.STOPPING)
        self._reopen(partition, _rocksdb_options(self._shared))

    def _reopen(self, partition: int, options: Options) -> None:
        self.close([partition])
        path = self._path(partition)
        with _told_as_store_error():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._databases[partition] = database = _opened(path, options)
            seconds = str(int(self._shared.tidy_seconds))
            database.set_options({"periodic_compaction_seconds": seconds})

    def close(self, partitions: Iterable[int]) -> None:
        """Close the databases of some partitions, so that another process may open them."""
        for partition in list(partitions):
            database = self._databases.pop(partition, None)
            if database is not None and _closed(database):
                # Until now it was kept up to date: see is_too_old().
                os.utime(self._path(partition))

    def close_others(self, partitions: Iterable[int]) -> None:
        """Close all databases but those of some partitions."""
        self.close(set(self._databases) - set(partitions))

    def destroy(self, partition: int) -> None:
        """Delete a partition's rows on this machine; the changelog has them still."""
        self.close([partition])
        shutil.rmtree(self._path(partition), ignore_errors=True)

    def tidy(self) -> None:
        """Let what was deleted leave the files, those of partitions that others have by now, too.

        What is flushed leaves the log, and lets RocksDB look for files that are due to be
        compacted (see `open`).
        """
        with _told_as_store_error():
            for database in self._databases.values():
                database.flush(wait=False)
        for path in Path(self.app.conf.tabledir).glob(f"{self.table_name}-*"):
            number = path.name.rpartition("-")[2]
            if number.isdecimal() and self._is_left(int(number), path):
                shutil.rmtree(path, ignore_errors=True)

    def size_bytes(self) -> int:
        """Return the size of the files of all open partitions, without their write-ahead logs."""
        sizes = (
            database.property_int_value("rocksdb.total-sst-files-size")
            for database in self._databases.values()
        )
        with _told_as_store_error():
            return sum(size or 0 for size in sizes)

    def _is_left(self, partition: int, path: Path) -> bool:
        if partition in self._databases:
            return False  # and RocksDB takes files away while they are looked at
        return time.time() - _last_kept(path) > self._shared.erase_after_seconds

    def offset(self, partition: int) -> int | None:
        """Return the changelog offset up to which the store holds everything, or None."""
        stored = self.read(partition, _OFFSET_KEY)
        return None if stored is None else int(stored)

    def is_too_old(self, partition: int) -> bool:
        """Return whether the store was idle for so long that deletions may have passed it by.

        Kafka drops a deletion from a changelog ``delete.retention.ms`` after it was compacted.
        """
        folder = self._path(partition)
        if partition in self._databases or not folder.exists():
            return False
        # If it was kept in the future, the clock was wrong, and tells nothing of how long ago.
        return abs(time.time() - _last_kept(folder)) > MAX_IDLE_SECONDS

    def _database(self, partition: int) -> Rdict:
        try:
            return self._databases[partition]
        except KeyError:
            raise NotReadyError(Unavailable.RECOVERING) from None

    def _path(self, partition: int) -> Path:
        return Path(self.app.conf.tabledir) / f"{self.table_name}-{partition}"

    # -- what Faust asks of a store; recovery and rebalance are the engine's

    async def on_stop(self) -> None:
        """Close everything."""
        self.close(set(self._databases))

    def reset_state(self) -> None:
        """Delete the rows on this machine; the changelog has them still."""
        self.close(set(self._databases))
        for path in Path(self.app.conf.tabledir).glob(f"{self.table_name}-*"):
            shutil.rmtree(path)

    def apply_changelog_batch(self, *_: Any) -> None:
        """Not offered: `app.engine.changelog` brings a store up to date."""
        raise NotImplementedError("app.engine.changelog brings a store up to date")

    async def backup_partition(
        self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1
    ) -> None:
        """Not offered: the changelog is the backup of every store."""
        raise NotImplementedError("the changelog is the backup of every store")

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:
        """Not offered: a store without its files is recovered from the changelog."""
        raise NotImplementedError("a store is recovered from its changelog")

    # -- the dictionary that Faust's own table commands see: read-only, over the open partitions

    def _get(self, key: bytes) -> bytes | None:
        found = (database.get(key) for database in self._databases.values())
        return next((row for row in found if row is not None), None)

    def _contains(self, key: bytes) -> bool:
        return self._get(key) is not None

    def _iteritems(self) -> Iterator[tuple[bytes, bytes]]:
        for database in self._databases.values():
            items = cast("Iterator[tuple[bytes, bytes]]", database.items())
            yield from ((key, row) for key, row in items if not key.startswith(RESERVED_PREFIX))

    def _iterkeys(self) -> Iterator[bytes]:
        return (key for key, _ in self._iteritems())

    def _itervalues(self) -> Iterator[bytes]:
        return (row for _, row in self._iteritems())

    def _size(self) -> int:
        return sum(1 for _ in self._iterkeys())

    def _set(self, key: bytes, value: bytes | None) -> None:
        raise TypeError("rows are written by partition, with apply()")

    def _del(self, key: bytes) -> None:
        raise TypeError("rows are written by partition, with apply()")

    def _clear(self) -> None:
        raise TypeError("rows are written by partition, with apply()")
