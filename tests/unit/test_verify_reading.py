"""What `verify` reads is what the engine reads, by other code."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from app.domain.consumed_records import UnreadableRecord
from app.domain.errors import CorruptBatchError
from app.kafka import record_batches
from app.kafka.protocol import READ_COMMITTED
from app.kafka.record_batches import AbortedTransactions, PartitionRecords
from app.ops.verify.reading import IndependentScan, _Batches, _pieces, _Records
from tests.support.batches import ABORT, COMMIT, marker
from tests.support.hand_made_batches import LAST_DELTA_AT, Row, batch, sealed, with_bad_name

PLACE = TP("topic", 3)
CONTROL = 0x20


@dataclass
class Log:
    """A log as a broker would have it, and what a fetch from some offset tells of it."""

    batches: list[bytes] = field(default_factory=list)
    end: int = 0
    aborted: list[tuple[int, int]] = field(default_factory=list)

    def write(self, values: Sequence[bytes | None], producer: int, codec: int) -> None:
        """Write records; those without a value are compacted away."""
        rows: list[Row] = [
            (self.end + number, 1_700_000_000_000 + number, b"key", value, [("name", b"v")])
            for number, value in enumerate(values)
            if value is not None
        ]
        if rows:
            written = bytearray(batch(rows, codec, producer, base=self.end))
            # A batch keeps its last offset if its last record is compacted away.
            written[LAST_DELTA_AT : LAST_DELTA_AT + 4] = (len(values) - 1).to_bytes(4, "big")
            self.batches.append(sealed(written))
            self.end += len(values)

    def write_bad_name(self) -> None:
        """Write a record with a header name that is not UTF-8."""
        rows: list[Row] = [(self.end, 1, b"key", b"value", [("BAD-me", b"")])]
        self.batches.append(with_bad_name(rows, self.end))
        self.end += 1

    def decide(self, producer: int, first: int, *, is_commit: bool) -> None:
        """Write the control record that ends a transaction."""
        self.batches.append(marker(self.end, producer, COMMIT if is_commit else ABORT))
        self.end += 1
        if not is_commit:
            self.aborted.append((producer, first))


VALUES = st.lists(st.one_of(st.none(), st.binary(max_size=20)), min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(-1, 2), VALUES, st.sampled_from([0, 1, 3, 4])),
        st.tuples(st.just("decide"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("bad name")),
    ),
    max_size=25,
)


def made(steps: Sequence[Any]) -> Log:
    """Return the log that steps leave."""
    log, opened = Log(), dict[int, int]()
    for step in steps:
        if step[0] == "write":
            _, producer, values, codec = step
            begin = log.end
            log.write(values, producer, codec)
            if producer >= 0 and log.end > begin:
                opened.setdefault(producer, begin)
        elif step[0] == "decide" and step[1] in opened:
            log.decide(step[1], opened.pop(step[1]), is_commit=step[2])
        elif step[0] == "bad name":
            log.write_bad_name()
    for producer, first in opened.items():
        log.decide(producer, first, is_commit=False)
    return log


def said(record: Any) -> tuple[object, ...]:
    """Return what a record says, and whether it can be read."""
    fields = record.offset, record.timestamp, record.key, record.value, list(record.headers)
    return *fields, isinstance(record, UnreadableRecord)


def by_engine(log: Log, start: int) -> tuple[list[Any], int]:
    """Return the records as the engine reads them, and the next offset."""
    parts = PartitionRecords(b"".join(log.batches), start, AbortedTransactions(log.aborted))
    records: list[Any] = []
    while not parts.is_exhausted:
        records += parts.take(3, 1 << 20)
    return [said(each) for each in records], parts.next_offset


def by_verify(log: Log, start: int) -> tuple[list[Any], int]:
    """Return the records as `verify` reads them, and the next offset."""
    batches = _Batches(PLACE, b"".join(log.batches), set())
    parts = _Records(PLACE, batches, log.aborted, start, None, None, False, READ_COMMITTED)
    pieces = list(_pieces(parts))
    return [said(each) for _, piece in pieces for each in piece], pieces[-1][0]


@given(STEPS, st.data())
def test_both_read_the_same_records(steps: Sequence[Any], data: Any) -> None:
    log = made(steps)
    start = data.draw(st.integers(0, log.end))
    # A fetch begins with the batch that has the offset.
    while log.batches and _end_of(log.batches[0]) <= start:
        log.batches.pop(0)
    log.aborted = [each for each in log.aborted if _ends_behind(log, each, start)]
    assert by_verify(log, start) == by_engine(log, start)


def _end_of(made_batch: bytes) -> int:
    return int.from_bytes(made_batch[:8], "big") + int.from_bytes(made_batch[23:27], "big") + 1


def _ends_behind(log: Log, aborted: tuple[int, int], start: int) -> bool:
    """Return whether the control record of a transaction is in what is fetched."""
    producer, first = aborted
    ends = [
        int.from_bytes(each[:8], "big")
        for each in log.batches
        if each[22] & CONTROL and int.from_bytes(each[43:51], "big") == producer
    ]
    return any(end > first and end >= start for end in ends)


def test_a_last_record_that_the_engine_leaves_out_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.write([b"one", b"two", b"three"], -1, 0)
    take = record_batches._Batch.take

    def forgetful(self: Any, *args: Any) -> Any:
        records, left = take(self, *args)
        return records[:-1], left

    monkeypatch.setattr(record_batches._Batch, "take", forgetful)
    assert len(by_engine(log, 0)[0]) == 2
    assert len(by_verify(log, 0)[0]) == 3


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_only_what_aiokafka_cannot_read_is_left_to_the_engine(codec: int) -> None:
    log, scan = Log(), IndependentScan()
    log.write([b"one", b"two"], -1, codec)
    log.write_bad_name()
    log.write([bytes(5 * 1024 * 1024)], -1, codec)
    batches = _Batches(PLACE, b"".join(log.batches), scan.left_to_engine)
    parts = _Records(PLACE, batches, [], 0, None, None, False, READ_COMMITTED)
    assert [record.offset for record in parts] == [0, 1, 2, 3]
    assert scan.left_to_engine == {(PLACE, 2), (PLACE, 3)}


def test_offsets_that_are_not_true_are_left_to_the_engine() -> None:
    log = Log()
    rows: list[Row] = [(0, 1, b"k", b"a", []), (7, 1, b"k", b"b", []), (2, 1, b"k", b"c", [])]
    log.batches.append(batch(rows))
    log.end = 3
    assert by_verify(log, 0) == by_engine(log, 0)


@pytest.mark.parametrize(("at", "told"), [(16, "old format"), (-1, "wrong checksum")])
def test_a_batch_that_is_damaged_is_named(at: int, told: str) -> None:
    damaged = bytearray(batch([(5, 1, b"k", b"value", [])], base=5))
    damaged[at] = 1
    with pytest.raises(
        CorruptBatchError, match=f"topic, partition 3: the batch at offset 5.*{told}"
    ):
        _Batches(PLACE, bytes(damaged), set()).next_batch()
