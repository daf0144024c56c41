"""Reads topics for `verify` with another parser than the engine's, to find its bugs.

Requests, answers, batches, aborted transactions and control records are read by aiokafka. The
engine's parser (`app.kafka.record_batches`) reads only batches that aiokafka cannot read, or only
with too much memory. The report counts them.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise
from struct import Struct
from typing import Any

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import OffsetOutOfRangeError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP

from app.domain.consumed_records import ConsumedRecord
from app.domain.errors import CorruptBatchError, LostRecordsError
from app.kafka import record_batches
from app.kafka.cluster import Cluster
from app.kafka.fetching import MAX_RESPONSE_BYTES, MAX_SCANNED_BYTES, MAX_WAIT_MS
from app.kafka.partition_reader import MAX_BYTES, MAX_RECORDS, Extent
from app.kafka.record_batches import unpacks_to_at_most

#: base offset, length, leader epoch, magic.
_BATCH_HEADER = Struct(">qiib")
#: The length does not include the base offset and the length itself.
_LENGTH_STARTS = 12


class IndependentScan:
    """Reads extents as aiokafka's consumer does, within bounded memory."""

    def __init__(self) -> None:
        #: The first offsets of the batches that the engine's parser has read.
        self.left_to_engine: set[tuple[TP, int]] = set()

    async def __call__(
        self, cluster: Cluster, extent: Extent, isolation_level: int
    ) -> AsyncIterator[tuple[int, Sequence[ConsumedRecord]]]:
        """Yield the records of an extent in pieces, each with the next offset."""
        tp, position = TP(extent.topic, extent.partition), extent.start
        while position < extent.end:
            fetched = await self._fetch(cluster, tp, position, isolation_level)
            for following, records in _pieces(fetched):
                yield following, records
                position = following

    async def _fetch(
        self, cluster: Cluster, tp: TP, position: int, isolation_level: int
    ) -> "_Records":
        asked = [(tp.topic, [(tp.partition, position, MAX_SCANNED_BYTES)])]
        answer = await cluster.send(
            cluster.leader(tp),
            FetchRequest(MAX_WAIT_MS, 1, MAX_RESPONSE_BYTES, isolation_level, asked),
        )
        ((_, ((_, error_code, _, _, _, aborted, _, data),)),) = answer.topics
        if error_code == OffsetOutOfRangeError.errno:
            raise LostRecordsError(f"{tp.topic}, partition {tp.partition}: {position} is not there")
        if error_code:
            raise for_code(error_code)(tp.topic)
        batches = _Batches(tp, data or b"", self.left_to_engine)
        return _Records(tp, batches, aborted, position, None, None, False, isolation_level)


def _pieces(records: "_Records") -> Iterator[tuple[int, Sequence[ConsumedRecord]]]:
    """Yield records in pieces of bounded size, each with the next offset."""
    piece: list[ConsumedRecord] = []
    size = 0
    for record in records:
        piece.append(record)
        size += len(record.key or b"") + len(record.value or b"")
        if len(piece) >= MAX_RECORDS or size >= MAX_BYTES:
            yield records.next_fetch_offset, piece
            piece, size = [], 0
    yield records.next_fetch_offset, piece


class _Records(PartitionRecords):  # type: ignore[misc]  # aiokafka carries no types
    """The committed records of a fetch, as aiokafka's consumer finds them."""

    def _consumer_record(self, _: Any, record: Any) -> Any:
        # Return it as it was parsed, so that an unreadable record stays one.
        return record


class _Batches:
    """The whole batches of a fetch, in the form that aiokafka's consumer takes."""

    def __init__(self, tp: TP, data: bytes, left_to_engine: set[tuple[TP, int]]) -> None:
        self._tp = tp
        self._data = data
        self._at = 0
        self._left_to_engine = left_to_engine

    def has_next(self) -> bool:
        """Return whether another batch is whole."""
        return self._at + _BATCH_HEADER.size <= len(self._data) and self._end() <= len(self._data)

    def _end(self) -> int:
        return self._at + _LENGTH_STARTS + int(_BATCH_HEADER.unpack_from(self._data, self._at)[1])

    def next_batch(self) -> "_Batch":
        """Return the next batch."""
        base, _, _, magic = _BATCH_HEADER.unpack_from(self._data, self._at)
        where = f"{self._tp.topic}, partition {self._tp.partition}: the batch at offset {base}"
        if magic != 2:
            raise CorruptBatchError(f"{where} has the old format {magic}; see docs/operations.md")
        begin, self._at = self._at, self._end()
        batch = _Batch(self._tp, self._data[begin : self._at], self._left_to_engine)
        if not batch.validate_crc():
            raise CorruptBatchError(f"{where} is damaged: wrong checksum; see docs/operations.md")
        return batch


class _Batch:
    """A batch of aiokafka. If aiokafka cannot read it, the engine's parser does."""

    def __init__(self, tp: TP, data: bytes, left_to_engine: set[tuple[TP, int]]) -> None:
        self._tp = tp
        self._data = data
        self._whole: Any = MemoryRecords(data).next_batch()
        self._left_to_engine = left_to_engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def __next__(self) -> Any:
        return next(self._whole)

    def __iter__(self) -> Iterator[ConsumedRecord]:
        records = self._records()
        return self._of_the_engine() if records is None else iter(records)

    def _records(self) -> list[ConsumedRecord] | None:
        """Return the records; None if aiokafka cannot read them within bounded memory."""
        if not unpacks_to_at_most(self._data, record_batches.MAX_UNPACKED_BYTES):
            return None
        try:
            records = list(self._whole)
        except Exception:  # for a header name that is not UTF-8, among others
            return None
        offsets = [record.offset for record in records]
        # Brokers store the offsets in records as producers send them.
        is_true = (
            all(self._whole.base_offset <= each < self._whole.next_offset for each in offsets)
            and all(one < other for one, other in pairwise(offsets))
        )  # fmt: skip
        return records if is_true else None

    def _of_the_engine(self) -> Iterator[ConsumedRecord]:
        base = self._whole.base_offset
        self._left_to_engine.add((self._tp, base))
        # Aborted transactions and control records are left out already.
        records = record_batches.PartitionRecords(self._data, base)
        while not records.is_exhausted:
            yield from records.take(MAX_RECORDS, MAX_BYTES)
