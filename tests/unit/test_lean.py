"""Lean records: aiokafka still has the names we lean on, and its parser's records what we read."""

import inspect

import aiokafka
from aiokafka.consumer import fetcher
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record._crecords import DefaultRecordBatchBuilder, MemoryRecords
from aiokafka.structs import TopicPartition

from app.engine.lean import _LeanResults, fill

TP = TopicPartition("topic", 0)


def fetched(values: list[bytes]) -> fetcher.FetchResult:
    """Return what a fetch of a batch of records gives."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    for offset, value in enumerate(values):
        builder.append(offset, 1_700_000_000_123, b"k", value, [("h", b"1")])
    records = fetcher.PartitionRecords(
        TP, MemoryRecords(bytes(builder.build())), [], 0, None, None, True, fetcher.READ_COMMITTED
    )
    return fetcher.FetchResult(TP, assignment=None, partition_records=records, backoff=0)


def test_records_come_as_the_parser_has_them() -> None:
    results = _LeanResults()
    results[TP] = fetched([b"one", b"two"])
    records = list(results[TP]._partition_records)
    assert [type(record).__module__.split(".")[0] for record in records] == ["aiokafka"] * 2
    assert not any(isinstance(record, aiokafka.ConsumerRecord) for record in records)
    assert [record.value for record in records] == [b"one", b"two"]
    assert [record.offset for record in records] == [0, 1]
    assert records[0].key == b"k"
    assert records[0].timestamp == 1_700_000_000_123
    assert list(records[0].headers) == [("h", b"1")]


def test_batches_are_filled_with_all_rows_in_order() -> None:
    rows: list[tuple[bytes, bytes | None]] = [(b"k%d" % n, b"x" * 100) for n in range(50)]
    rows += [(b"gone", None), (b"huge", b"y" * 5_000), (b"last", b"z")]
    waiting, batches = iter(rows[1:]), []
    row: tuple[bytes, bytes | None] | None = rows[0]
    while row is not None:
        batches.append(BatchBuilder(2_000, 0, is_transactional=1))
        row = fill(batches[-1], row, waiting)
    assert sum(batch.record_count() for batch in batches) == len(rows)
    parsed = [list(MemoryRecords(bytes(batch._build())).next_batch()) for batch in batches]
    assert [(record.key, record.value) for part in parsed for record in part] == rows
    assert all([r.offset for r in part] == list(range(len(part))) for part in parsed)


def test_a_batch_is_filled_as_aiokafka_does_it() -> None:
    filled, appended = (BatchBuilder(10_000, 0, is_transactional=1) for _ in range(2))
    rows: list[tuple[bytes, bytes | None]] = [(b"a", b"1"), (b"b", None)]
    assert fill(filled, rows[0], iter(rows[1:])) is None
    for key, value in rows:
        appended.append(timestamp=None, key=key, value=value)
    assert filled.record_count() == appended.record_count()
    assert filled.size() == appended.size()
    assert filled.closed()


def test_an_error_of_a_fetch_passes_through() -> None:
    error = fetcher.FetchError(error=ValueError(), backoff=0)
    results = _LeanResults()
    results[TP] = error
    assert results[TP] is error


def test_aiokafka_still_has_what_we_lean_on() -> None:
    assert aiokafka.__version__ == "0.14.0"
    made = inspect.getsource(fetcher.PartitionRecords._unpack_records)
    assert "self._consumer_record(tp, record)" in made
    assert "self._records[tp] = " in inspect.getsource(fetcher.Fetcher)
    assert "self._records = " in inspect.getsource(fetcher.Fetcher.__init__)
