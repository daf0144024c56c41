"""Lean records: aiokafka still has the names we lean on, and its parser's records what we read."""

import inspect
from dataclasses import dataclass

import aiokafka
import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record._crecords import DefaultRecordBatchBuilder, MemoryRecords
from aiokafka.record.util import calc_crc32c as crc32c
from aiokafka.structs import TopicPartition

from app.engine.lean import NO_HEADERS, ToWrite, _LeanResults, fill

TP = TopicPartition("topic", 0)


@dataclass
class State:
    """The consumer's position in a partition."""

    position: int
    paused: bool = False

    def consumed_to(self, position: int) -> None:
        """Move it."""
        self.position = position


@dataclass
class Assignment:
    """What is assigned: one partition."""

    state: State
    active: bool = True

    def state_value(self, tp: TopicPartition) -> State:
        """Return its state."""
        return self.state


def batch(start: int, values: list[bytes], producer: int = -1, control: bool = False) -> bytes:
    """Return a batch of records as a broker sends it."""
    builder = DefaultRecordBatchBuilder(2, 0, int(producer >= 0), producer, 0, 0, 1 << 20)
    for offset, value in enumerate(values):
        key = ABORT if control else b"k"
        builder.append(offset, 1_700_000_000_123, key, value, [("h", b"1")])
    made = bytearray(builder.build())
    made[0:8] = start.to_bytes(8, "big")
    if control:
        made[22] |= 0x20  # the attributes are two bytes, behind the checksum
        made[17:21] = crc32c(bytes(made[21:])).to_bytes(4, "big")
    return bytes(made)


#: The key of a control record: version 0, type 0.
ABORT = b"\x00\x00\x00\x00"


def fetched(data: bytes, start: int, aborted: list[tuple[int, int]]) -> fetcher.FetchResult:
    """Return what a fetch gives."""
    records = fetcher.PartitionRecords(
        TP, MemoryRecords(data), aborted, start, None, None, True, fetcher.READ_COMMITTED
    )
    return fetcher.FetchResult(
        TP, assignment=Assignment(State(start)), partition_records=records, backoff=0
    )


def read(result: fetcher.FetchResult, most: int | None) -> list[tuple[int, bytes, int]]:
    """Return offset and value of each record, and the position after those read with it."""
    found = []
    while result.has_more():
        records = result.getall(most)
        position = result._assignment.state.position
        found += [(record.offset, record.value, position) for record in records]
    return [*found, (-1, b"", result._assignment.state.position)]


LOG = b"".join(
    [
        batch(0, [b"a", b"b", b"c"]),
        batch(3, [b"d"], producer=7),
        batch(4, [b"x", b"y"], producer=8),
        batch(6, [b"e", b"f"], producer=7),
        batch(8, [b""], producer=8, control=True),
        batch(9, [b"g"], producer=8),
        batch(10, [b""], producer=7, control=True),
    ]
)


@pytest.mark.parametrize("most", [None, 1, 2, 3, 4, 100])
@pytest.mark.parametrize("start", range(11))
@pytest.mark.parametrize("aborted", [[], [(8, 4)]])
def test_lean_records_are_those_of_aiokafka_and_move_the_position_as_it_does(
    most: int | None, start: int, aborted: list[tuple[int, int]]
) -> None:
    lean = _LeanResults()
    lean[TP] = fetched(LOG, start, aborted)
    theirs = read(fetched(LOG, start, aborted), most)
    ours = read(lean[TP], most)
    assert [found[:2] for found in ours] == [found[:2] for found in theirs]
    assert ours[-1] == theirs[-1]
    if start == 0:
        values = b"".join(value for _, value, _ in ours)
        assert values == (b"abcdefg" if aborted else b"abcdxyefg")


def test_records_come_as_the_parser_has_them() -> None:
    results = _LeanResults()
    results[TP] = fetched(batch(0, [b"one", b"two"]), 0, [])
    records = results[TP].getall()
    assert not any(isinstance(record, aiokafka.ConsumerRecord) for record in records)
    assert [record.value for record in records] == [b"one", b"two"]
    assert [record.offset for record in records] == [0, 1]
    assert records[0].key == b"k"
    assert records[0].timestamp == 1_700_000_000_123
    assert list(records[0].headers) == [("h", b"1")]


def test_a_damaged_batch_is_an_error() -> None:
    results = _LeanResults()
    results[TP] = fetched(batch(0, [b"one"])[:-2] + b"!!", 0, [])
    with pytest.raises(CorruptRecordException):
        results[TP].getall()


def test_batches_are_filled_with_all_rows_in_order() -> None:
    rows: list[ToWrite] = [(None, b"k%d" % n, b"x" * 100, NO_HEADERS) for n in range(50)]
    rows += [(None, b"gone", None, NO_HEADERS), (None, b"huge", b"y" * 5_000, NO_HEADERS)]
    rows += [(1_700_000_000_000, None, b"z", [("name", b"value")])]
    waiting, batches = iter(rows[1:]), []
    row: ToWrite | None = rows[0]
    while row is not None:
        batches.append(BatchBuilder(2_000, 0, is_transactional=1))
        row = fill(batches[-1], row, waiting)
    assert sum(batch.record_count() for batch in batches) == len(rows)
    parsed = [list(MemoryRecords(bytes(batch._build())).next_batch()) for batch in batches]
    records = [record for part in parsed for record in part]
    assert [(r.key, r.value, r.headers) for r in records] == [row[1:] for row in rows]
    assert records[-1].timestamp == 1_700_000_000_000
    assert all([r.offset for r in part] == list(range(len(part))) for part in parsed)


def test_a_batch_is_filled_as_aiokafka_does_it() -> None:
    filled, appended = (BatchBuilder(10_000, 0, is_transactional=1) for _ in range(2))
    rows: list[ToWrite] = [(None, b"a", b"1", NO_HEADERS), (None, b"b", None, NO_HEADERS)]
    assert fill(filled, rows[0], iter(rows[1:])) is None
    for _, key, value, _ in rows:
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
    taken = inspect.getsource(fetcher.Fetcher.fetched_records)
    assert "res_or_error.getall(max_records)" in taken
    assert "type(res_or_error) is FetchResult" in taken
    assert "self._records[tp] = " in inspect.getsource(fetcher.Fetcher)
    assert "self._records = " in inspect.getsource(fetcher.Fetcher.__init__)
