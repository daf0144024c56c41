"""Record batches: both parsers give every committed record once, within bounded memory."""

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from app.domain.consumed_records import ConsumedRecord, UnreadableRecord
from app.domain.errors import CorruptBatchError
from app.kafka import record_batches
from app.kafka.fetching import _Log
from app.kafka.protocol import Fetched
from app.kafka.record_batches import (
    MAX_RECORD_BYTES,
    MAX_UNPACKED_BYTES,
    AbortedTransactions,
    PartitionRecords,
)
from tests.support.hand_made_batches import (
    ATTRIBUTES_AT,
    BAD_NAME,
    COUNT_AT,
    GREATEST_AT,
    RECORDS_AT,
    Row,
    batch,
    sealed,
    with_bad_name,
)

CODECS = {
    "none": DefaultRecordBatch.CODEC_NONE,
    "gzip": DefaultRecordBatch.CODEC_GZIP,
    "snappy": DefaultRecordBatch.CODEC_SNAPPY,
    "lz4": DefaultRecordBatch.CODEC_LZ4,
    "zstd": DefaultRecordBatch.CODEC_ZSTD,
}
TRANSACTIONAL, CONTROL, LOG_APPEND_TIME = 0x10, 0x20, 0x08
#: Keys of control records: version, type.
ABORT, COMMIT = b"\0\0\0\0", b"\0\0\0\1"


def marker(key: bytes, producer: int, base: int) -> bytes:
    """Return a control batch that ends a transaction."""
    return batch([(base, 1, key, b"\0" * 6, [])], producer=producer, flags=CONTROL, base=base)


def row_of(record: ConsumedRecord) -> Row:
    """Return what a record says."""
    headers: list[Any] = list(record.headers)
    return record.offset, record.timestamp, record.key, record.value, headers


# -- any log

some_bytes = st.none() | st.binary(max_size=40)
row_parts = st.tuples(
    st.integers(1, 3),  # how far its offset is from the one before
    st.integers(0, 2**42),
    some_bytes,
    some_bytes,
    st.lists(st.tuples(st.text(max_size=8), some_bytes), max_size=3),
)
#: A batch of a producer (-1: of no transaction), or the end of a producer's transaction.
batch_parts = st.tuples(
    st.sampled_from([-1, -1, 7, 8]),
    st.sampled_from(list(CODECS.values())),
    st.sampled_from([0, LOG_APPEND_TIME]),
    st.lists(row_parts, min_size=1, max_size=12),
)
end_parts = st.tuples(st.sampled_from([7, 8]), st.sampled_from([ABORT, COMMIT]))


@dataclass
class Log:
    """A partition, and what a simple reader of it knows."""

    #: The batches, each with the offset behind it.
    batches: list[tuple[int, bytes]] = field(default_factory=list)
    #: Each row with its producer and the begin of its transaction, or None.
    rows: list[tuple[Row, tuple[int, int] | None]] = field(default_factory=list)
    #: By (producer, begin) of each aborted transaction: the offset of its end.
    aborted: dict[tuple[int, int], int] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)
    end: int = 0

    def write(self, producer: int, codec: int, flags: int, parts: Sequence[Any]) -> None:
        """Add a batch."""
        base, rows = self.end, []
        offset = base - 1
        for gap, timestamp, key, value, headers in parts:
            offset += gap
            rows.append((offset, timestamp, key, value, headers))
        if producer >= 0:
            self.open.setdefault(producer, base)
        made = batch(rows, codec, producer, flags, base)
        if flags & LOG_APPEND_TIME:
            appended_at = int.from_bytes(made[GREATEST_AT : GREATEST_AT + 8], "big")
            rows = [(row[0], appended_at, *row[2:]) for row in rows]
        inside = (producer, self.open[producer]) if producer >= 0 else None
        self.rows += [(row, inside) for row in rows]
        self.end = offset + 1
        self.batches.append((self.end, made))

    def end_transaction(self, producer: int, key: bytes) -> None:
        """End the transaction of a producer, if one is open."""
        if producer in self.open:
            begin = self.open.pop(producer)
            if key == ABORT:
                self.aborted[producer, begin] = self.end
            self.end += 1
            self.batches.append((self.end, marker(key, producer, self.end - 1)))

    def fetched(self, start: int) -> tuple[list[bytes], list[tuple[int, int]]]:
        """Return what a fetch from an offset on returns."""
        data = [made for end, made in self.batches if end > start]
        return data, [each for each, end in self.aborted.items() if end >= start]

    def committed(self, start: int) -> list[Row]:
        """Return the records that a fetch from an offset on has to give."""
        return [row for row, inside in self.rows if row[0] >= start and inside not in self.aborted]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Return any log, of which each transaction has ended."""
    log = Log()
    for parts in draw(st.lists(batch_parts | end_parts, max_size=8)):
        if len(parts) == 4:
            log.write(*parts)
        else:
            log.end_transaction(*parts)
    for producer in list(log.open):
        log.end_transaction(producer, draw(st.sampled_from([ABORT, COMMIT])))
    return log


sizes = st.tuples(st.integers(1, 30), st.integers(1, 400))


def check_takes(
    parts: Sequence[PartitionRecords], takes: Iterator[tuple[int, int]], rows: list[Row], start: int
) -> int:
    """Take all records, compare them with rows, and the next offset after each take."""
    taken: list[Row] = []
    before = start
    for part in parts:
        while not part.is_exhausted:
            max_records, max_bytes = next(takes)
            some = part.take(max_records, max_bytes)
            assert len(some) <= max_records
            taken += map(row_of, some)
            assert taken == rows[: len(taken)]
            assert part.next_offset >= before
            before = part.next_offset
            assert not some or before > some[-1].offset
            if len(taken) < len(rows):
                assert before <= rows[len(taken)][0]
            assert some or part.is_exhausted
    assert taken == rows
    return before


def endlessly(takes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Repeat sizes."""
    while True:
        yield from takes


@pytest.mark.parametrize("max_unpacked_bytes", [MAX_UNPACKED_BYTES, 1], ids=["fast", "slow"])
@given(log=logs(), takes=st.lists(sizes, min_size=1, max_size=8), data=st.data())
def test_every_committed_record_comes_once_whatever_is_taken_at_a_time(
    max_unpacked_bytes: int, log: Log, takes: list[tuple[int, int]], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, log.end))
    batches, aborted = log.fetched(start)
    part = PartitionRecords(
        b"".join(batches), start, AbortedTransactions(aborted), max_unpacked_bytes
    )
    end = check_takes([part], endlessly(takes), log.committed(start), start)
    assert end == log.end


@given(log=logs(), data=st.data())
def test_a_fetch_that_is_split_knows_which_transactions_have_ended(
    log: Log, data: st.DataObject
) -> None:
    batches, aborted = log.fetched(0)
    at = data.draw(st.integers(0, len(batches)))
    shared = AbortedTransactions(aborted)
    middle = log.batches[at - 1][0] if at else 0
    parts = [
        PartitionRecords(b"".join(batches[:at]), 0, shared),
        PartitionRecords(b"".join(batches[at:]), middle, shared),
    ]
    check_takes(parts, endlessly([(5, 100)]), log.committed(0), 0)


def test_what_follows_an_aborted_transaction_of_the_same_producer_is_given() -> None:
    log = Log()
    log.write(7, 0, 0, [(1, 1, b"k", b"aborted", [])])
    log.end_transaction(7, ABORT)
    log.write(7, 0, 0, [(1, 1, b"k", b"committed", [])])
    log.end_transaction(7, COMMIT)
    batches, aborted = log.fetched(0)
    shared = AbortedTransactions(aborted)
    parts = [PartitionRecords(made, 0, shared) for made in batches]
    assert [record.value for part in parts for record in part.take(9, 999)] == [b"committed"]


# -- which parser


def is_fast(part: PartitionRecords) -> bool:
    """Return whether the batch that is open is read by aiokafka's parser."""
    assert part._batch is not None
    return part._batch._is_fast


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_ordinary_batches_are_read_by_the_compiled_parser(codec: int) -> None:
    rows: list[Row] = [(n, n, b"k%d" % n, b"v" * 200, [("h", b"1")]) for n in range(1_000)]
    part = PartitionRecords(batch(rows, codec), 0)
    taken = part.take(500, 1 << 20)
    assert is_fast(part)
    assert type(taken[0]).__module__.startswith("aiokafka")
    assert list(map(row_of, [*taken, *part.take(501, 1 << 20)])) == rows
    assert part.is_exhausted


def test_a_larger_batch_is_not_unpacked_as_a_whole() -> None:
    rows: list[Row] = [(n, n, b"k", b"v" * 100_000, []) for n in range(60)]
    part = PartitionRecords(batch(rows, CODECS["gzip"]), 0)
    taken = part.take(10, 1 << 30)
    assert not is_fast(part)
    assert list(map(row_of, [*taken, *part.take(51, 1 << 30)])) == rows


# -- records that cannot be read


@given(
    before=st.integers(0, 40),
    after=st.integers(0, 40),
    takes=st.lists(sizes, min_size=1, max_size=5),
    start=st.integers(0, 30),
)
def test_a_header_name_that_is_not_utf_8_loses_no_record(
    before: int, after: int, takes: list[tuple[int, int]], start: int
) -> None:
    rows: list[Row] = [(n, n, b"k%d" % n, b"v", [("h", b"1")]) for n in range(before + after + 1)]
    rows[before] = before, 5, b"key", b"value", [("ok", b"1"), ("BAD-me", b"2"), ("x", None)]
    good: Row = (len(rows), 5, b"key", b"next", [])
    data = with_bad_name(rows) + batch([good], base=len(rows))
    name = BAD_NAME.decode(errors="surrogateescape")
    rows[before] = before, 5, b"key", b"value", [("ok", b"1"), (name, b"2"), ("x", None)]
    part = PartitionRecords(data, start)
    wanted = [row for row in [*rows, good] if row[0] >= start]
    check_takes([part], endlessly(takes), wanted, start)
    (unreadable,) = [
        record
        for record in PartitionRecords(data, 0).take(999, 1 << 20)
        if isinstance(record, UnreadableRecord)
    ]
    assert (unreadable.offset, unreadable.cause) == (before, "unreadable-header")
    assert unreadable.headers[1][0].encode(errors="surrogateescape") == BAD_NAME


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_record_that_is_too_large_is_passed(codec: int) -> None:
    rows: list[Row] = [
        (0, 1, b"k", b"before", []),
        (1, 22, b"k", b"\0" * (MAX_RECORD_BYTES + 1), [("h", b"1")]),
        (2, 3, b"k", b"after", []),
    ]
    part = PartitionRecords(batch(rows, codec), 0)
    first, large, last = part.take(9, 1 << 30)
    assert (row_of(first), row_of(last)) == (rows[0], rows[2])
    assert isinstance(large, UnreadableRecord)
    assert (large.offset, large.timestamp, large.cause) == (1, 22, "too-large")
    assert large.size > MAX_RECORD_BYTES
    assert (large.key, large.value, list(large.headers)) == (None, b"", [])


# -- memory


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_batch_that_unpacks_to_much_is_never_held_as_a_whole(codec: int) -> None:
    zeros = bytes(900_000)
    made = batch([(n, n, None, zeros, []) for n in range(300)], codec)
    part = PartitionRecords(made, 0)
    found = 0
    tracemalloc.start()
    try:
        # What is the batch itself does not count, nor its copy for the checksum.
        while taken := part.take(5_000, 1 << 20):
            found += len(taken)
            assert len(taken) <= 2
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == 300
    assert peak < 64 * 1024 * 1024 + 2 * (len(made) if len(made) > MAX_UNPACKED_BYTES else 0)


def test_a_take_of_a_partition_counts_what_is_unpacked() -> None:
    zeros = bytes(900_000)
    made = batch([(n, n, None, zeros, []) for n in range(60)], CODECS["zstd"])
    log = _Log(TP("topic", 0), 0, -1)
    log.add(Fetched(bytes(16), 0, 0, 60, 60, 0, (), memoryview(made), None))
    found = 0
    while log.buffered:
        taken = log.take(5_000, 2 * 1024 * 1024)
        assert len(taken.records) <= 3
        found += len(taken.records)
    assert (found, log.taken) == (60, 60)


# -- damage


def refused(made: bytes, max_unpacked_bytes: int = MAX_UNPACKED_BYTES) -> str:
    """Return why a batch is refused."""
    with pytest.raises(CorruptBatchError) as raised:
        PartitionRecords(made, 0, max_unpacked_bytes=max_unpacked_bytes).take(99, 1 << 30)
    return str(raised.value)


def unreadable(made: bytes, max_unpacked_bytes: int = MAX_UNPACKED_BYTES) -> list[int]:
    """Return which records of a sample cannot be read: all nine come, each at its place."""
    part = PartitionRecords(made, 0, max_unpacked_bytes=max_unpacked_bytes)
    records = part.take(99, 1 << 30)
    assert [record.offset for record in records] == list(range(9))
    assert (part.next_offset, part.is_exhausted) == (9, True)
    return [record.offset for record in records if isinstance(record, UnreadableRecord)]


def sample(codec: int = 0) -> bytearray:
    """Return a batch to damage."""
    return bytearray(batch([(n, 1, b"k", b"value" * 9, []) for n in range(9)], codec))


def test_a_wrong_checksum_is_told() -> None:
    made = sample()
    made[-1] ^= 1
    assert "wrong checksum" in refused(bytes(made))


def test_an_old_format_is_told() -> None:
    made = sample()
    made[16] = 1
    assert "old format 1" in refused(bytes(made))


@pytest.mark.parametrize("max_unpacked_bytes", [MAX_UNPACKED_BYTES, 1])
@pytest.mark.parametrize("codec", [*list(CODECS.values())[1:], 5, 7])
@given(garbage=st.binary(max_size=200))
def test_what_cannot_be_unpacked_or_read_is_unreadable(
    codec: int, max_unpacked_bytes: int, garbage: bytes
) -> None:
    made = sample()
    made[ATTRIBUTES_AT + 1] |= codec
    assert 8 in unreadable(sealed(made[:RECORDS_AT] + garbage), max_unpacked_bytes)


@pytest.mark.parametrize("max_unpacked_bytes", [MAX_UNPACKED_BYTES, 1])
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(cut=st.integers(1, 60))
def test_what_a_batch_that_ends_too_early_does_not_have_is_unreadable(
    codec: int, max_unpacked_bytes: int, cut: int
) -> None:
    made = sample(codec)
    end = max(len(made) - cut, RECORDS_AT)
    lost = unreadable(sealed(made[:end]), max_unpacked_bytes)
    # The last bytes of a compressed stream may be a checksum that nobody misses.
    assert lost == list(range(9 - len(lost), 9))
    assert lost or codec


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_lies_behind_the_records_does_not_count(codec: int) -> None:
    """Brokers store it: whoever reads must not be stopped by it."""
    made = sample(codec)
    assert unreadable(sealed(made + b"junk behind the stream")) == []


def test_records_that_say_they_stand_elsewhere_are_unreadable_at_their_places() -> None:
    rows: list[Row] = [(n, 1, b"k", b"value", []) for n in range(9)]
    for false in (0, 1_000_000, -5):
        made = bytearray(batch(rows))
        builder = bytearray(batch([*rows[:4], (false, 1, b"k", b"value", []), *rows[5:]]))
        made[RECORDS_AT:] = builder[RECORDS_AT:]
        made[8:12] = (len(made) - 12).to_bytes(4, "big")
        assert unreadable(sealed(made)) == [4]


@pytest.mark.parametrize("max_unpacked_bytes", [MAX_UNPACKED_BYTES, 1])
@given(garbage=st.binary(max_size=100), at=st.integers(0, 8))
def test_garbage_between_records_costs_no_place(
    max_unpacked_bytes: int, garbage: bytes, at: int
) -> None:
    made = sample()
    begin = RECORDS_AT + at
    unreadable(sealed(made[:begin] + garbage), max_unpacked_bytes)


@pytest.mark.parametrize("max_unpacked_bytes", [MAX_UNPACKED_BYTES, 1])
@pytest.mark.parametrize("count", [8, 10])
def test_another_number_of_records_than_counted_is_told(
    count: int, max_unpacked_bytes: int
) -> None:
    made = sample()
    made[COUNT_AT:RECORDS_AT] = count.to_bytes(4, "big")
    refused(sealed(made), max_unpacked_bytes)


def test_a_number_without_end_is_refused_at_once() -> None:
    made = sample()
    endless = b"\x80" * 1_000_000
    assert unreadable(sealed(made[:RECORDS_AT] + endless), 1) == list(range(9))
    with pytest.raises(ValueError, match="varint"):
        record_batches._varint(endless, 0)


def test_a_snappy_block_that_says_it_is_huge_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unpacked: list[memoryview] = []
    # What a block says that it holds is allocated there.
    monkeypatch.setattr("cramjam.snappy.decompress_raw", unpacked.append)
    made = sample()
    made[ATTRIBUTES_AT + 1] |= CODECS["snappy"]
    huge = sealed(made[:RECORDS_AT] + b"\xff\xff\xff\xff\x0f\0")
    assert unreadable(huge) == list(range(9))
    assert unpacked == []
