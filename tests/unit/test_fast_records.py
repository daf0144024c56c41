"""Filling batches: aiokafka still has the names we lean on, and fills as it does."""

import aiokafka
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record._crecords import MemoryRecords

from app.kafka.fast_records import NO_HEADERS, ToWrite, fill


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


def test_aiokafka_still_has_what_we_lean_on() -> None:
    assert aiokafka.__version__ == "0.14.0"
