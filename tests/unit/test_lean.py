"""Lean records: aiokafka still has the names we lean on, and its parser's records what we read."""

import inspect

import aiokafka
from aiokafka.consumer import fetcher
from aiokafka.record._crecords import DefaultRecordBatchBuilder, MemoryRecords
from aiokafka.structs import TopicPartition

from app.engine.lean import _LeanResults

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
