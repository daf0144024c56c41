"""Moved records, pure: compares copies with the outcomes and rows that report them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from app.domain.positions import token
from app.ops.verify.findings import Difference, Findings
from app.ops.verify.multisets import Multiset
from app.ops.verify.places import Offsets, Span, place


@dataclass(slots=True)
class Moves:
    """The records of one partition that must be moved, and what is known of them."""

    span: Span
    #: Whether everything that was found of its log is applied.
    is_quiet: bool
    moved: Offsets
    #: Records whose copies may be gone.
    perhaps: Offsets
    #: The new positions that the table keeps.
    kept: Mapping[int, bytes]
    #: The copies, and the outcomes that report them. Both are about the records here.
    copies: Multiset
    told: Multiset


@dataclass(frozen=True, slots=True)
class OutcomesTopic:
    """The topic of the outcomes, and its partitions whose beginning is gone."""

    name: str
    begun_late: Collection[int]


@dataclass(slots=True)
class Gone:
    """How many moves could not be compared: a beginning is gone, or other programs made them."""

    copies: int = 0
    outcomes: int = 0
    #: How many records claim to be moved, and were not.
    foreign: int = 0


def compare_moves(moves: Moves, outcomes: OutcomesTopic, findings: Findings) -> Gone:
    """Compare the records to move with their copies, and with the outcomes and rows about them."""
    span = moves.span
    moves, foreign = _own(moves, outcomes)
    times = Counter(copy.about for copy in moves.copies.entries() if copy.about in span)
    wanted = {*moves.moved.all, *moves.perhaps.all}
    _differ(findings, Difference.MISSING_MOVE, span, (o for o in moves.moved.all if o not in times))
    _differ(findings, Difference.DUPLICATE_MOVE, span, (o for o, n in times.items() if n > 1))
    _differ(findings, Difference.EXTRA_MOVE, span, times.keys() - wanted)
    # If a record does not have exactly one copy, nothing more can be compared.
    settled = {offset for offset, count in times.items() if count == 1 and offset in wanted}
    _compare_kept(moves, settled, wanted, findings)
    return Gone(
        sum(offset not in times for offset in moves.perhaps.all),
        _compare_told(moves, settled, wanted, outcomes, findings),
        foreign,
    )


def _own(moves: Moves, outcomes: OutcomesTopic) -> tuple[Moves, int]:
    """Return the moves without foreign copies, and how many foreign copies there are.

    Any producer can write the header. The registry writes outcome and row of a move in the same
    transaction.
    """
    foreign = [
        copy
        for copy in moves.copies.without(moves.told)
        if copy.partition not in outcomes.begun_late
        and moves.kept.get(copy.about) != token(copy.partition, copy.offset).encode()
    ]
    return replace(moves, copies=moves.copies.but(foreign)), len(foreign)


def _differ(findings: Findings, difference: Difference, span: Span, offsets: Iterable[int]) -> None:
    for offset in sorted(offsets):
        findings.differs(difference, span.place(offset))


def _compare_kept(
    moves: Moves, settled: Collection[int], wanted: Collection[int], findings: Findings
) -> None:
    wrong = {offset for offset in moves.kept if offset in moves.span and offset not in wanted}
    for copy in moves.copies.entries():
        now = token(copy.partition, copy.offset).encode()
        if copy.about in settled and moves.kept.get(copy.about) != now:
            wrong.add(copy.about)
    _differ(findings, Difference.KEPT_MOVE, moves.span, wrong)


def _compare_told(
    moves: Moves,
    settled: Collection[int],
    wanted: Collection[int],
    outcomes: OutcomesTopic,
    findings: Findings,
) -> int:
    """Compare the outcomes of moves; return how many may be gone."""
    span, gone = moves.span, 0
    copies = moves.copies.about(settled)
    for copy in copies.without(moves.told):
        if copy.partition in outcomes.begun_late:
            gone += 1
        else:
            findings.differs(Difference.MISSING_OUTCOME, span.place(copy.about))
    for told in moves.told.without(copies):
        is_settled = told.about in settled or told.about not in wanted
        beyond = told.about >= span.until and moves.is_quiet
        if beyond or (told.about in span and is_settled):
            where = place(outcomes.name, told.partition, told.offset)
            findings.differs(Difference.EXTRA_OUTCOME, where)
    return gone
