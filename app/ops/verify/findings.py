"""Findings of a verification: differences, and what could not be checked."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

CLEAN = 0
DIFFERENCES = 1
PARTIAL = 2


class Difference(StrEnum):
    """The kinds of differences, as the report names them."""

    MISSING_ROW = "rows that users lacks although its records make them"
    DIFFERENT_ROW = "rows of users that are not as their records make them"
    EXTRA_ROW = "rows of users that no record makes"
    OVERTAKEN = "records that were applied although too many of their id were waiting"
    UNTRUE_REJECTION = "records that were rejected although fewer of their id were waiting"
    MISSING_HOLDER = "rows that emails lacks although a claim makes them"
    DIFFERENT_HOLDER = "rows of emails that are not as their claims make them"
    EXTRA_HOLDER = "rows of emails that no claim makes"
    MISSING_CLAIM = "claims that records ask for and email-claims lacks"
    EXTRA_CLAIM = "claims that no record asks for"
    MISSING_RELEASE = "releases that follow from records and email-claims lacks"
    EXTRA_RELEASE = "releases that follow from no record"
    MISSING_VERDICT = "claims without their verdict"
    EXTRA_VERDICT = "verdicts that no claim has got"
    NOT_HELD = "registered users who do not hold their address in emails"
    HELD_BY_NOBODY = "addresses in emails that no registered user has"
    KEPT_OUTCOME = "outcomes that users keeps and that are not what became of the record"
    MISSING_OUTCOME = "records whose outcome is not told"
    EXTRA_OUTCOME = "outcomes that are told and are not what became of the record"
    MISSING_LETTER = "unreadable records without a dead letter"
    EXTRA_LETTER = "dead letters of records that need none"
    MISSING_MOVE = "records in a wrong partition that were not moved"
    DUPLICATE_MOVE = "records that were moved more than once"
    EXTRA_MOVE = "copies of records that were not to be moved"
    KEPT_MOVE = "moves of which users keeps something else"
    COUNT = "counts of users that are not those of their rows"
    MARKER = "applied markers that cannot be right"
    STORE_MISSING_ROW = "rows that a store lacks although its changelog has them"
    STORE_DIFFERENT_ROW = "rows of a store that are not as in its changelog"
    STORE_EXTRA_ROW = "rows of a store that its changelog does not have"
    STORE_AHEAD = "stores that are ahead of their changelog"


@dataclass(slots=True)
class Findings:
    """Collects findings. It counts all of a kind, and remembers the first ``limit``."""

    limit: int = 20
    with_ids: bool = False
    counts: Counter[Difference] = field(default_factory=Counter)
    #: Notes that are not differences, one line each.
    notes: list[str] = field(default_factory=list)
    #: What could not be checked, one line each.
    unchecked: list[str] = field(default_factory=list)
    _listed: defaultdict[Difference, list[str]] = field(default_factory=lambda: defaultdict(list))

    def differs(self, difference: Difference, place: str, key: bytes | None = None) -> None:
        """Add a difference; ``key`` may be personal, and is remembered only with --ids."""
        self.counts[difference] += 1
        listed = self._listed[difference]
        if len(listed) < self.limit:
            listed.append(place if key is None or not self.with_ids else f"{place} {_id(key)}")

    @property
    def status(self) -> int:
        """The exit status. A certain difference outweighs what could not be checked."""
        if self.counts.total():
            return DIFFERENCES
        return PARTIAL if self.unchecked else CLEAN

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        yield from self.notes
        yield from (f"partial: {reason}" for reason in self.unchecked)
        for difference, count in self.counts.items():
            yield from self._about(difference, count)
        yield self._verdict()

    def _about(self, difference: Difference, count: int) -> Iterator[str]:
        listed = self._listed[difference]
        yield f"{difference}: {count:,}"
        yield from (f"  {line}" for line in listed)
        if listed and count > len(listed):
            yield f"  ... and {count - len(listed):,} more"

    def _verdict(self) -> str:
        if total := self.counts.total():
            return f"result: {total:,} {'difference' if total == 1 else 'differences'}"
        return f"result: {'no difference in what could be checked' if self.unchecked else 'clean'}"


def _id(key: bytes) -> str:
    # Quoted, and everything is escaped that could disturb a terminal.
    return repr(key.decode(errors="backslashreplace"))
