"""The store below the tables: a RocksDB per partition, all within one memory budget.

Faust finds it by the URL scheme ``registry://`` (entry point ``faust.stores``). Stock Faust gives
each partition of each table a block cache of 2 GiB of its own and writes row and changelog offset
apart; here a worker has one cache and one write-buffer budget, and a batch of rows and the offset
of its last changelog record are one atomic write.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from faust.stores.base import SerializedStore
from faust.types import TP, AppT, CollectionT, EventT
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
)

from app.errors import NotReadyError
from app.settings import settings

#: Where a store keeps the offset of the last changelog record that it holds. Row keys are UTF-8
#: and therefore never begin with 0xFF.
_OFFSET_KEY = b"\xffoffset"

_MIB = 1024 * 1024
#: Files kept open per partition; more would only save re-reading their index blocks.
_MAX_OPEN_FILES = 64
#: What one partition may buffer before it is flushed; the budget of the worker binds first.
_WRITE_BUFFER_BYTES = 16 * _MIB
_MAX_WAL_BYTES = 64 * _MIB
_BLOOM_BITS_PER_KEY = 10

Rows = Mapping[bytes, bytes | None]


@cache
def _shared_memory() -> tuple[Cache, WriteBufferManager]:
    """Return the block cache and the write-buffer budget of this process."""
    wanted = settings()
    return (
        Cache(wanted.cache_mib * _MIB),
        WriteBufferManager(wanted.write_buffer_mib * _MIB, False),
    )


def _options() -> Options:
    block_cache, write_buffers = _shared_memory()
    table = BlockBasedOptions()
    table.set_block_cache(block_cache)
    table.set_cache_index_and_filter_blocks(True)
    table.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_manager(write_buffers)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_total_wal_size(_MAX_WAL_BYTES)
    options.set_max_open_files(_MAX_OPEN_FILES)
    options.set_keep_log_file_num(2)
    options.set_compression_type(DBCompressionType.lz4())
    return options


class PartitionedStore(SerializedStore[bytes, bytes]):
    """A table's rows on disk, asked and written by partition: never guessed from the key."""

    def __init__(self, url: Any, app: AppT, table: CollectionT, **kwargs: Any) -> None:
        super().__init__(url, app, table, **kwargs)
        self._databases: dict[int, Rdict] = {}

    # -- what agents and lookups use

    def read(self, partition: int, key: bytes) -> bytes | None:
        """Return the row under a key of a partition, or None."""
        return cast("bytes | None", self._database(partition).get(key))

    def read_many(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the rows under several keys of a partition, in their order."""
        return cast("list[bytes | None]", self._database(partition).get(list(keys)))

    def apply(self, partition: int, rows: Rows, changelog_offset: int) -> None:
        """Write rows (None deletes) and the offset of their last changelog record, atomically."""
        batch = WriteBatch(raw_mode=True)
        for key, row in rows.items():
            if row is None:
                batch.delete(key)
            else:
                batch.put(key, row)
        batch.put(_OFFSET_KEY, str(changelog_offset).encode())
        self._database(partition).write(batch)

    def close(self, partitions: Iterable[int]) -> None:
        """Close the databases of some partitions, so that another process may open them."""
        for partition in list(partitions):
            database = self._databases.pop(partition, None)
            if database is not None:
                database.close()

    def _database(self, partition: int) -> Rdict:
        database = self._databases.get(partition)
        if database is None:
            if self.should_stop:
                raise NotReadyError("this worker is stopping")
            path = self._path(partition)
            path.parent.mkdir(parents=True, exist_ok=True)
            database = self._databases[partition] = Rdict(str(path), options=_options())
        return database

    def _path(self, partition: int) -> Path:
        return Path(self.app.conf.tabledir) / f"{self.table_name}-{partition}"

    # -- what Faust's recovery and rebalance ask of a store

    def persisted_offset(self, tp: TP) -> int | None:
        """Return the offset of the last changelog record in the store, or None."""
        stored = self.read(tp.partition, _OFFSET_KEY)
        return None if stored is None else int(stored)

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Remember an offset without rows; `apply` does so with them."""
        self.apply(tp.partition, {}, offset)

    def apply_changelog_batch(
        self,
        batch: Iterable[EventT[Any]],
        to_key: Callable[[Any], bytes],
        to_value: Callable[[Any], bytes],
    ) -> None:
        """Write what recovery or a standby has read from the changelog."""
        rows: dict[int, dict[bytes, bytes | None]] = {}
        last: dict[int, int] = {}
        for message in (event.message for event in batch):
            rows.setdefault(message.partition, {})[cast(bytes, message.key)] = message.value
            last[message.partition] = max(message.offset, last.get(message.partition, -1))
        for partition, changed in rows.items():
            self.apply(partition, changed, last[partition])

    async def on_rebalance(
        self,
        assigned: set[TP],
        revoked: set[TP],
        newly_assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Close what is no longer ours, so that a reopened database never meets its own LOCK."""
        changelog = self.table.changelog_topic.get_topic_name()
        kept = {tp.partition for tp in assigned if tp.topic == changelog}
        self.close(set(self._databases) - kept)

    async def on_stop(self) -> None:
        """Close everything."""
        self.close(set(self._databases))

    def reset_state(self) -> None:
        """Delete the rows on this machine; the changelog has them still."""
        self.close(set(self._databases))
        for path in Path(self.app.conf.tabledir).glob(f"{self.table_name}-*"):
            shutil.rmtree(path)

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
            yield from ((key, row) for key, row in items if key != _OFFSET_KEY)

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
