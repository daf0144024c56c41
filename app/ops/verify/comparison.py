"""Compares the expectation of a fold with the content of a partition; pure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.domain.counts import Count
from app.domain.outcomes import Outcome
from app.engine.marker import PAGE_RECORDS
from app.kafka.topics import Topics
from app.ops.verify.emails import FoundClaims
from app.ops.verify.findings import Difference, Findings
from app.ops.verify.multisets import Multiset
from app.ops.verify.places import NOWHERE, Span, place
from app.ops.verify.tables import UNJUDGED, TableFold, digest_of, offset_of, row_of
from app.ops.verify.users import UsersFold
from app.ops.verify.verdicts import Verdicts


@dataclass(frozen=True, slots=True)
class RowTrouble:
    """The difference for a row that is missing, different, or extra."""

    missing: Difference
    different: Difference
    extra: Difference


USER_ROWS = RowTrouble(Difference.MISSING_ROW, Difference.DIFFERENT_ROW, Difference.EXTRA_ROW)
EMAIL_ROWS = RowTrouble(
    Difference.MISSING_HOLDER, Difference.DIFFERENT_HOLDER, Difference.EXTRA_HOLDER
)


def compare_rows(
    trouble: RowTrouble,
    made: Mapping[bytes, bytes],
    span: Span,
    table: TableFold,
    changelog: str,
    findings: Findings,
    knows: Callable[[bytes], bool] = lambda key: True,
) -> int:
    """Compare the digests of expected rows with the table; return how many rows cannot be judged.

    A row cannot be judged if the records of its key are partly gone.
    """
    unknown = 0
    for key, row in made.items():
        found = table.rows.get(key)
        if found is None:
            difference = trouble.missing
        elif digest_of(found) != digest_of(row):
            difference = trouble.different
        else:
            continue
        findings.differs(difference, span.place(offset_of(row)), key)
    for key, row in table.rows.items():
        if key in made:
            continue
        if knows(key):
            where = place(changelog, table.partition, offset_of(row))
            findings.differs(trouble.extra, where, key)
        else:
            unknown += 1
    return unknown


def compare_verdicts(
    expected: Multiset, verdicts: Verdicts, topics: Topics, findings: Findings
) -> int:
    """Compare the verdicts that claims need with the found ones; return how many may be gone.

    An expected verdict is reported at the position of its claim.
    """
    gone = 0
    for claim in expected.without(verdicts.found):
        if verdicts.is_whole:
            where = place(topics.email_claims.name, claim.partition, claim.offset)
            findings.differs(Difference.MISSING_VERDICT, where)
        else:
            gone += 1
    for verdict in verdicts.found.without(expected):
        where = place(topics.email_decisions.name, verdict.partition, verdict.offset)
        findings.differs(Difference.EXTRA_VERDICT, where)
    return gone


def compare_claims(
    fold: UsersFold, found: FoundClaims, claims_quiet: bool, topics: Topics, findings: Findings
) -> int:
    """Compare claims and releases with the expected ones; return how many may be gone.

    A missing claim is certain. An extra claim is not: claims are read later than the table, so they
    may follow from records, or verdicts, that were applied in between.
    """
    waiting = fold.waiting()
    quiet = fold.is_quiet and claims_quiet

    def is_certain(attempt: int) -> bool:
        """Return whether a claim for an attempt cannot have come later than the marker."""
        if attempt in fold.span:
            return fold.outcomes.of(attempt) != UNJUDGED and (quiet or attempt not in waiting)
        return attempt == NOWHERE or (attempt >= fold.span.until and quiet)

    expected = fold.claims.claims
    for asked in expected.certain.without(found.claims):
        findings.differs(Difference.MISSING_CLAIM, fold.span.place(asked.offset))
    for claim in found.claims.without(Multiset.joined([expected.certain, expected.perhaps])):
        if is_certain(claim.about):
            where = place(topics.email_claims.name, claim.partition, claim.offset)
            findings.differs(Difference.EXTRA_CLAIM, where)
    _compare_releases(fold, found, topics, findings, is_complete=quiet and fold.is_whole)
    releases_gone = fold.claims.releases.perhaps.without(found.releases)
    return len([*expected.perhaps.without(found.claims), *releases_gone])


def _compare_releases(
    fold: UsersFold, found: FoundClaims, topics: Topics, findings: Findings, *, is_complete: bool
) -> None:
    """Compare releases; extra ones are certain only if the fold ``is_complete``."""
    expected, strays = fold.claims.releases, fold.verdicts.strays
    for asked in expected.certain.without(found.releases):
        findings.differs(Difference.MISSING_RELEASE, fold.span.place(asked.offset))
    if not fold.claims.begun_late:
        for stray in strays.without(found.releases):
            where = place(topics.email_decisions.name, stray.partition, stray.offset)
            findings.differs(Difference.MISSING_RELEASE, where)
    if is_complete:
        asked_for = Multiset.joined([expected.certain, expected.perhaps, strays])
        for release in found.releases.without(asked_for):
            where = place(topics.email_claims.name, release.partition, release.offset)
            findings.differs(Difference.EXTRA_RELEASE, where)


def compare_outcomes(
    fold: UsersFold, found: Multiset, is_whole: bool, topics: Topics, findings: Findings
) -> int:
    """Compare terminal outcomes with the found ones; return how many may be gone."""
    gone = 0
    for told in fold.outcomes.told.without(found):
        if is_whole:
            findings.differs(Difference.MISSING_OUTCOME, fold.span.place(told.offset))
        else:
            gone += 1

    def is_certain(offset: int) -> bool:
        """Return whether an outcome of a record cannot have come later than the marker."""
        if offset in fold.span:
            outcome = fold.outcomes.of(offset)
            return outcome != UNJUDGED and (outcome != Outcome.PENDING or fold.is_quiet)
        return offset == NOWHERE or (offset >= fold.span.until and fold.is_quiet)

    for told in found.without(fold.outcomes.told):
        if is_certain(told.about):
            where = place(topics.registration_outcomes.name, told.partition, told.offset)
            findings.differs(Difference.EXTRA_OUTCOME, where)
    return gone


def compare_pages(fold: UsersFold, table: TableFold, findings: Findings) -> None:
    """Compare the outcomes of records with those that the table keeps, from the log's start."""
    first = fold.span.start // PAGE_RECORDS
    last = (fold.span.until - 1) // PAGE_RECORDS
    numbers = {*range(first, last + 1), *(number for number in table.pages if number >= first)}
    nothing = bytes(PAGE_RECORDS)
    for number in sorted(numbers):
        page, made = table.pages.get(number, nothing), fold.outcomes.page(number)
        if page != made:
            _compare_page(fold, number * PAGE_RECORDS, page, made, findings)


def compare_count(table: TableFold, changelog: str, findings: Findings) -> None:
    """Compare how many users there are, in all and by day, with the rows; nobody may have counted.

    That is so until the first change after a repartition, or after version 0.8.
    """
    if table.count is None:
        return
    if not _counts(row_of(table.count), list(table.days())):
        where = place(changelog, table.partition, offset_of(table.count))
        findings.differs(Difference.COUNT, where)


def _counts(stored: bytes, days: Sequence[str]) -> bool:
    """Return whether a stored count is that of users who registered on these days."""
    try:
        found = Count.decode(stored)
        anew = Counter(day for day in days if day >= found.since)
    except (ValueError, TypeError):
        return False  # no worker of ours has written it
    return (found.users, found.days) == (len(days), anew)


def _compare_page(
    fold: UsersFold, begins_at: int, page: bytes, made: bytes, findings: Findings
) -> None:
    if len(page) != PAGE_RECORDS:
        findings.differs(Difference.KEPT_OUTCOME, fold.span.place(begins_at))
        return
    for offset, (kept, outcome) in enumerate(zip(page, made, strict=True), start=begins_at):
        fits = kept == outcome or (outcome == UNJUDGED and kept in _OF_ROWS)
        if offset >= fold.span.start and not fits:
            findings.differs(Difference.KEPT_OUTCOME, fold.span.place(offset))


#: Outcomes of readable records in their right partition.
_OF_ROWS = frozenset(Outcome) - {Outcome.MOVED, Outcome.DEAD_LETTER}
