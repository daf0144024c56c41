"""The comparisons, pure: two folds of the same thing, and where they differ."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from app.verify.findings import Difference, Findings
from app.verify.fold import DIGEST_BYTES, UNCHECKED, Offsets, SourceFold, TableFold, offset_of


@dataclass(frozen=True, slots=True)
class Names:
    """The topics' names, to say where a record stands."""

    source: str
    changelog: str
    dead_letters: str


def place(topic: str, partition: int, offset: int) -> str:
    """Return where a record stands, for people."""
    return f"{topic} {partition}:{offset}"


def compare_rows(source: SourceFold, table: TableFold, names: Names, findings: Findings) -> int:
    """Compare what registrations make with the table; return how many rows cannot be compared.

    Those are the rows whose registration is gone from the log: another that is still there may
    have been replayed or rejected then.
    """
    unchecked = 0
    for key, made in source.rows.items():
        row = table.rows.get(key)
        if row is None:
            difference = Difference.MISSING_ROW
        elif _same(row, made) or _same(row, UNCHECKED):
            continue
        else:
            difference = Difference.DIFFERENT_ROW
        findings.differs(difference, place(names.source, source.partition, offset_of(made)), key)
    for key, row in table.rows.items():
        if _same(row, UNCHECKED):
            unchecked += 1
        elif key not in source.rows:
            where = place(names.changelog, table.partition, offset_of(row))
            findings.differs(Difference.EXTRA_ROW, where, key)
    return unchecked


def _same(one: bytes, other: bytes) -> bool:
    return one[:DIGEST_BYTES] == other[:DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class Span:
    """The records of a source partition that were decided: from ``start`` to before ``end``."""

    topic: str
    partition: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What each of certain records must leave behind exactly once, and what else to call it."""

    missing: Difference
    duplicate: Difference
    extra: Difference


LETTERS = Trace(Difference.MISSING_LETTER, Difference.DUPLICATE_LETTER, Difference.EXTRA_LETTER)
MOVES = Trace(Difference.MISSING_MOVE, Difference.DUPLICATE_MOVE, Difference.EXTRA_MOVE)


def compare_traces(
    trace: Trace,
    span: Span,
    expected: Offsets,
    perhaps: Offsets,
    found: Offsets,
    findings: Findings,
) -> int:
    """Compare as multisets; return how many traces may have been there, and are gone by now.

    What names a record outside the span is left out: it is gone, or was not to be decided yet.
    """
    times = found.within(span.start, span.end)

    def differ(difference: Difference, offsets: Collection[int]) -> None:
        for offset in sorted(offsets):
            findings.differs(difference, place(span.topic, span.partition, offset))

    differ(trace.missing, [offset for offset in expected.all if offset not in times])
    differ(trace.duplicate, [offset for offset, count in times.items() if count > 1])
    differ(trace.extra, times.keys() - set(expected.all) - set(perhaps.all))
    return sum(offset not in times for offset in perhaps.all)


def check_marker(
    table: TableFold, topic: str, start: int, end: int, names: Names, findings: Findings
) -> int | None:
    """Return up to where a partition is applied (None: no marker says so), and judge that."""
    if table.bad_marker is not None:
        where = place(names.changelog, table.partition, table.bad_marker)
        findings.differs(Difference.MARKER, f"{where} cannot be read")
    if table.marker is None:
        return None
    until = applied(table.marker.next, topic)
    if until > end:
        where = f"{names.changelog} {table.partition}"
        findings.differs(Difference.MARKER, f"{where} is at {until}, the log ends at {end}")
    elif topic in table.marker.next and until < start:
        findings.unchecked.append(
            f"{topic} {table.partition}: applied up to {until}, the log begins at {start}; what "
            "stood between was removed before it was applied"
        )
    return until


def applied(following: Mapping[str, int], topic: str) -> int:
    """Return the next offset to apply of a topic; a marker without it says that none was."""
    return following.get(topic, 0)
