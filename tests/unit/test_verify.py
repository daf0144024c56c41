"""Verifying, without Kafka: what is a difference, what is none, and what cannot be told."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.engine.marker import MARKER_KEY, Marker
from app.keys import encode_key, partition_of
from app.positions import Position
from app.records import Headers, Registration, encode, encode_row, key_of
from app.registration import MOVED_FROM_HEADER, Decision, first_row
from app.verify.comparison import (
    LETTERS,
    MOVES,
    Names,
    Span,
    check_marker,
    compare_rows,
    compare_traces,
)
from app.verify.findings import CLEAN, DIFFERENCES, PARTIAL, Difference, Findings
from app.verify.fold import LetterFold, Offsets, SourceFold, TableFold
from app.verify.stores import ChangelogAt, Store, StoreComparison

PARTITIONS = 8
NAMES = Names("user-registrations", "users-changelog", "dead-letter")


@dataclass(frozen=True)
class Record:
    """A record, as a consumer gives it."""

    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()
    timestamp: int = 1_700_000_000_000


def user(name: str = "Ada", user_id: str = "ada") -> Registration:
    return Registration(id=user_id, name=name, email="ada@example.com")


ADA = user()
HOME = partition_of(key_of(ADA), PARTITIONS)
ELSEWHERE = (HOME + 1) % PARTITIONS


def moved_from(partition: int, offset: int) -> Headers:
    return [(MOVED_FROM_HEADER, Position(partition, offset).token().encode())]


def folded(*records: Record, partition: int = HOME, until: int | None = None) -> SourceFold:
    fold = SourceFold(partition, PARTITIONS, until)
    fold.add(records)
    return fold


def row_of(registration: Registration = ADA, offset: int = 0) -> bytes:
    """Return the row that a registration makes, by the agent's own decision."""
    return encode_row(first_row(HOME, Record(offset), registration))


def table(*records: Record, source_start: int = 0) -> TableFold:
    fold = TableFold(HOME, source_start)
    fold.add(records)
    return fold


def compared(source: SourceFold, rows: TableFold, findings: Findings | None = None) -> Findings:
    findings = findings or Findings()
    compare_rows(source, rows, NAMES, findings)
    return findings


def test_a_row_as_its_registration_makes_it_is_no_difference() -> None:
    source = folded(Record(0, value=encode(ADA)))
    assert compared(source, table(Record(5, key_of(ADA), row_of()))).status == CLEAN


def test_a_row_that_is_not_there_is_missing() -> None:
    findings = compared(folded(Record(7, value=encode(ADA))), table())
    assert findings.counts == {Difference.MISSING_ROW: 1}
    assert f"  user-registrations {HOME}:7" in findings.lines()
    assert findings.status == DIFFERENCES


def test_a_deleted_row_is_missing() -> None:
    rows = table(Record(5, key_of(ADA), row_of()), Record(6, key_of(ADA), None))
    findings = compared(folded(Record(0, value=encode(ADA))), rows)
    assert findings.counts == {Difference.MISSING_ROW: 1}


def test_a_row_that_no_registration_makes_is_extra() -> None:
    findings = compared(folded(), table(Record(5, key_of(ADA), row_of())))
    assert findings.counts == {Difference.EXTRA_ROW: 1}
    assert f"  users-changelog {HOME}:5" in findings.lines()


@pytest.mark.parametrize("row", [row_of(user("Eve")), row_of(offset=1), b"not a row", b""])
def test_a_row_of_other_bytes_is_different(row: bytes) -> None:
    findings = compared(folded(Record(0, value=encode(ADA))), table(Record(5, key_of(ADA), row)))
    assert findings.counts == {Difference.DIFFERENT_ROW: 1}


def test_the_newest_changelog_record_of_a_key_counts() -> None:
    rows = table(Record(5, key_of(ADA), b"older"), Record(9, key_of(ADA), row_of()))
    assert compared(folded(Record(0, value=encode(ADA))), rows).status == CLEAN


def test_what_comes_again_changes_nothing() -> None:
    source = folded(
        Record(0, value=encode(ADA)),
        Record(1, value=encode(ADA)),
        Record(2, value=encode(user("Eve"))),
        Record(3, value=encode(user("Eve"))),
    )
    assert compared(source, table(Record(5, key_of(ADA), row_of()))).status == CLEAN
    assert (source.decisions[Decision.REPLAYED], source.decisions[Decision.ID_TAKEN]) == (1, 2)


def test_batches_make_no_difference() -> None:
    records = [Record(n, value=encode(user(user_id=f"u{n % 30}"))) for n in range(100)]
    whole, piecewise = SourceFold(0, PARTITIONS), SourceFold(0, PARTITIONS)
    whole.add(records)
    for record in records:
        piecewise.add([record])
    assert whole.rows == piecewise.rows
    assert whole.moved.all == piecewise.moved.all


def test_a_record_in_a_wrong_partition_makes_no_row_there() -> None:
    source = folded(Record(0, value=encode(ADA)), partition=ELSEWHERE)
    assert (source.rows, list(source.moved.all)) == ({}, [0])


def test_ids_are_told_only_if_asked_for() -> None:
    source = folded(Record(0, value=encode(ADA)))
    assert "ada" not in "\n".join(compared(source, table()).lines())
    asked = compared(source, table(), Findings(with_ids=True))
    assert f"  user-registrations {HOME}:0 'ada'" in asked.lines()


def test_bookkeeping_is_no_row() -> None:
    assert table(Record(0, b"\xffrecent", b"[]"), Record(1, b"\xffapplied", None)).rows == {}


def marked(following: int | None, topic: str = NAMES.source) -> TableFold:
    marker = Marker.first() if following is None else Marker.first().after(topic, following)
    return table(Record(3, MARKER_KEY, marker.encode()))


def test_what_is_beyond_the_marker_is_not_applied_yet() -> None:
    until = check_marker(marked(1), NAMES.source, 0, 9, NAMES, Findings())
    source = folded(
        Record(0, value=encode(ADA)), Record(1, value=b"nonsense"), Record(2), until=until
    )
    assert source.not_applied == 2
    assert compared(source, table(Record(5, key_of(ADA), row_of()))).status == CLEAN
    assert not source.unreadable.all


def test_without_a_marker_everything_is_to_be_applied() -> None:
    assert check_marker(table(), NAMES.source, 0, 9, NAMES, Findings()) is None


def test_a_marker_that_does_not_name_the_topic_says_that_nothing_is_applied() -> None:
    findings = Findings()
    assert check_marker(marked(None), NAMES.source, 4, 9, NAMES, findings) == 0
    assert findings.status == CLEAN


def test_a_marker_beyond_the_end_is_a_difference() -> None:
    findings = Findings()
    check_marker(marked(10), NAMES.source, 0, 9, NAMES, findings)
    assert findings.counts == {Difference.MARKER: 1}


def test_a_marker_that_cannot_be_read_is_a_difference() -> None:
    findings = Findings()
    bad = table(Record(3, MARKER_KEY, b"{}"))
    assert check_marker(bad, NAMES.source, 0, 9, NAMES, findings) is None
    assert findings.counts == {Difference.MARKER: 1}


def test_records_that_were_removed_before_they_were_applied_make_it_partial() -> None:
    findings = Findings()
    check_marker(marked(3), NAMES.source, 5, 9, NAMES, findings)
    assert findings.status == PARTIAL


def offsets(numbers: Iterable[int]) -> Offsets:
    added = Offsets()
    for number in numbers:
        added.add(number)
    return added


def traced(
    expected: Sequence[int], found: Sequence[int], perhaps: Sequence[int] = (), start: int = 0
) -> tuple[Findings, int]:
    findings = Findings()
    span = Span(NAMES.source, HOME, start, 100)
    gone = compare_traces(
        LETTERS, span, offsets(expected), offsets(perhaps), offsets(found), findings
    )
    return findings, gone


def test_one_each_is_no_difference_in_any_order() -> None:
    assert traced([3, 5, 7], [7, 3, 5])[0].status == CLEAN


def test_each_kind_of_difference_is_told() -> None:
    findings, _ = traced([3, 5, 7], [3, 3, 7, 8])
    assert findings.counts == {
        Difference.MISSING_LETTER: 1,
        Difference.DUPLICATE_LETTER: 1,
        Difference.EXTRA_LETTER: 1,
    }
    assert list(findings.lines())[:6] == [
        f"{Difference.MISSING_LETTER}: 1",
        f"  user-registrations {HOME}:5",
        f"{Difference.DUPLICATE_LETTER}: 1",
        f"  user-registrations {HOME}:3",
        f"{Difference.EXTRA_LETTER}: 1",
        f"  user-registrations {HOME}:8",
    ]


def test_what_is_gone_or_not_applied_yet_is_left_out() -> None:
    assert traced([50], [2, 50, 100, 2**63], start=10)[0].status == CLEAN


def test_what_may_be_gone_is_counted_and_no_difference() -> None:
    findings, gone = traced([], [5], perhaps=[3, 5])
    assert (findings.status, gone) == (CLEAN, 1)


def test_a_duplicate_is_certain_even_then() -> None:
    assert traced([], [5, 5], perhaps=[5])[0].counts == {Difference.DUPLICATE_LETTER: 1}


def moves_compared(*copies: Record) -> Findings:
    """Compare a record at offset 4 of a wrong partition with copies in the right one."""
    source = folded(Record(4, value=encode(ADA)), partition=ELSEWHERE)
    home = folded(*copies)
    findings = Findings()
    span = Span(NAMES.source, ELSEWHERE, 0, 5)
    found = home.copies[ELSEWHERE]
    compare_traces(MOVES, span, source.moved, source.moved_perhaps, found, findings)
    return findings


def copy(offset: int, origin: int = 4) -> Record:
    return Record(offset, key_of(ADA), encode(ADA), moved_from(ELSEWHERE, origin))


def test_a_record_that_was_moved_once_is_right() -> None:
    assert moves_compared(copy(0)).status == CLEAN


def test_a_record_that_was_not_moved_is_a_difference() -> None:
    assert moves_compared().counts == {Difference.MISSING_MOVE: 1}


def test_a_record_that_was_moved_twice_is_a_difference() -> None:
    findings = moves_compared(copy(0), copy(1))
    assert findings.counts == {Difference.DUPLICATE_MOVE: 1}


def test_a_copy_of_a_record_that_was_not_to_be_moved_is_a_difference() -> None:
    findings = moves_compared(copy(0), copy(1, origin=3))
    assert findings.counts == {Difference.EXTRA_MOVE: 1}


def test_a_copy_that_is_not_applied_yet_counts() -> None:
    home = folded(copy(9), until=0)
    assert list(home.copies[ELSEWHERE].all) == [4]


@pytest.mark.parametrize("token", [b"", b"nonsense", b"\xff", None])
def test_another_producers_header_is_only_counted(token: bytes) -> None:
    home = folded(Record(0, value=encode(ADA), headers=[(MOVED_FROM_HEADER, token)]))
    assert home.foreign_copies == 1
    assert not home.copies


def test_a_copy_in_a_wrong_partition_becomes_a_dead_letter() -> None:
    astray = folded(copy(0), partition=ELSEWHERE)
    assert list(astray.unreadable.all) == [0]
    assert not astray.moved.all


def test_a_copy_may_be_gone_with_the_beginning_of_its_partition() -> None:
    source = SourceFold(ELSEWHERE, PARTITIONS, begun_late={HOME})
    source.add([Record(4, value=encode(ADA))])
    assert (list(source.moved.all), list(source.moved_perhaps.all)) == ([], [4])


def letter(topic: str = NAMES.source, partition: str = "2", offset: str = "9") -> Record:
    headers = {"source-topic": topic, "source-partition": partition, "source-offset": offset}
    return Record(0, headers=[(name, text.encode()) for name, text in headers.items()])


def test_a_letter_is_counted_for_the_record_that_it_names() -> None:
    fold = LetterFold(NAMES.source)
    fold.add([letter(), letter(offset="11"), letter(partition="3")])
    assert {number: list(found.all) for number, found in fold.letters.items()} == {
        2: [9, 11],
        3: [9],
    }


@pytest.mark.parametrize(
    "record",
    [
        Record(0),
        letter(topic="another"),
        letter(offset="-1"),
        letter(partition="x"),
        letter(offset="9" * 40),
    ],
)
def test_what_names_no_record_of_ours_is_no_letter(record: Record) -> None:
    fold = LetterFold(NAMES.source)
    fold.add([record])
    assert (fold.others, dict(fold.letters)) == (1, {})


def test_unreadable_records_and_tombstones_need_letters() -> None:
    source = folded(Record(3, value=b"nonsense"), Record(4, key_of(ADA), None), Record(5))
    assert list(source.unreadable.all) == [3, 4, 5]


def test_a_row_older_than_the_log_is_not_checked_whatever_came_later() -> None:
    rows = table(Record(5, key_of(ADA), row_of(offset=3)), source_start=10)
    source = folded(Record(12, value=encode(ADA)))
    findings = Findings()
    assert compare_rows(source, rows, NAMES, findings) == 1
    assert findings.status == CLEAN


def test_a_younger_row_that_no_registration_makes_is_certain() -> None:
    rows = table(Record(5, key_of(ADA), row_of(offset=11)), source_start=10)
    assert compared(folded(), rows).counts == {Difference.EXTRA_ROW: 1}


def test_a_row_that_names_another_partition_is_certain() -> None:
    forged = row_of().replace(
        Position(HOME, 0).token().encode(), Position(ELSEWHERE, 0).token().encode()
    )
    rows = table(Record(5, key_of(ADA), forged), source_start=10)
    assert compared(folded(), rows).counts == {Difference.EXTRA_ROW: 1}


@pytest.mark.parametrize("row", [b"nonsense", b"[]", b"{}", b'{"position": 1}', b'"\\u0000"'])
def test_a_row_that_is_none_is_certain(row: bytes) -> None:
    rows = table(Record(5, key_of(ADA), row), source_start=10)
    assert compared(folded(), rows).counts == {Difference.EXTRA_ROW: 1}


def test_a_missing_row_is_certain() -> None:
    findings = compared(folded(Record(12, value=encode(ADA))), table(source_start=10))
    assert findings.counts == {Difference.MISSING_ROW: 1}


def test_at_most_the_limit_is_listed_and_all_is_counted() -> None:
    findings = Findings(limit=2)
    for number in range(5):
        findings.differs(Difference.MISSING_ROW, f"t 0:{number}")
    assert list(findings.lines()) == [
        f"{Difference.MISSING_ROW}: 5",
        "  t 0:0",
        "  t 0:1",
        "  ... and 3 more",
        "result: 5 differences",
    ]


def test_a_difference_outweighs_what_could_not_be_checked() -> None:
    findings = Findings(unchecked=["the beginning is gone"])
    assert findings.status == PARTIAL
    assert next(findings.lines()) == "partial: the beginning is gone"
    findings.differs(Difference.EXTRA_ROW, "t 0:0")
    assert findings.status == DIFFERENCES


def test_an_id_cannot_disturb_the_terminal() -> None:
    findings = Findings(with_ids=True)
    findings.differs(Difference.EXTRA_ROW, "t 0:0", encode_key("a\x1b[2J") + b"\xff")
    assert "  t 0:0 'a\\x1b[2J\\\\xff'" in findings.lines()


def store_compared(
    changelog: Sequence[Record], offset: int | None, rows: dict[bytes, bytes]
) -> StoreComparison:
    at = ChangelogAt(offset)
    at.add(changelog)
    store = Store(Path("users-0"), 0)
    comparison = StoreComparison(store, at, NAMES, Findings())
    for key, row in rows.items():
        comparison.add(key, row)
    comparison.finish()
    return comparison


def test_a_store_like_its_changelog_is_right() -> None:
    log = [Record(0, b"a", b"1"), Record(1, MARKER_KEY, b"m"), Record(2, b"\xffrecent", b"r")]
    rows = {b"a": b"1", MARKER_KEY: b"m", b"\xffoffset": b"2", b"\xffrecent": b"older"}
    comparison = store_compared(log, 2, rows)
    assert (comparison.findings.status, comparison.rows) == (CLEAN, 1)


def test_a_store_that_is_behind_is_compared_as_of_its_offset() -> None:
    log = [Record(0, b"a", b"1"), Record(1, b"a", b"2"), Record(2, b"b", b"3")]
    assert store_compared(log, 0, {b"a": b"1"}).findings.status == CLEAN
    assert store_compared(log, 0, {b"a": b"2"}).findings.counts == {
        Difference.STORE_DIFFERENT_ROW: 1
    }


def test_differences_are_told() -> None:
    log = [Record(0, b"a", b"1"), Record(1, b"b", b"2"), Record(2, MARKER_KEY, b"m")]
    findings = store_compared(log, 2, {b"b": b"x", b"c": b"3", MARKER_KEY: b"n"}).findings
    assert findings.counts == {
        Difference.STORE_MISSING_ROW: 1,
        Difference.STORE_DIFFERENT_ROW: 2,
        Difference.STORE_EXTRA_ROW: 1,
    }


def test_a_row_whose_record_compaction_removed_is_not_checked() -> None:
    comparison = store_compared([Record(7, b"a", b"2")], 3, {b"a": b"1"})
    assert (comparison.findings.status, comparison.unchecked) == (CLEAN, 1)


def test_a_deleted_row_must_be_gone() -> None:
    log = [Record(0, b"a", b"1"), Record(1, b"a", None)]
    assert store_compared(log, 1, {}).findings.status == CLEAN
    assert store_compared(log, 1, {b"a": b"1"}).findings.status == DIFFERENCES


def test_an_empty_store_is_behind_everything() -> None:
    comparison = store_compared([Record(0, b"a", b"1")], None, {})
    assert comparison.findings.status == CLEAN
    assert not comparison.changelog.is_last
