"""The notes of a report: counts, and what could not be checked."""

from collections import Counter
from dataclasses import dataclass, field

from app.domain.outcomes import Outcome
from app.kafka.topics import Topics
from app.ops.verify.findings import Findings
from app.ops.verify.logs import EMAILS, USERS
from app.ops.verify.tables import UNJUDGED


@dataclass(slots=True)
class Totals:
    """Counts of everything."""

    partitions: int
    #: Records of each topic, rows of each table.
    counts: Counter[str] = field(default_factory=Counter)
    #: Records of ``user-registrations`` by outcome.
    outcomes: Counter[int] = field(default_factory=Counter)
    letters: int = 0
    not_applied: int = 0
    open_attempts: int = 0
    #: Users whose address was claimed by version 0.8 under another key.
    held_as_0_8_did: int = 0
    foreign_copies: int = 0
    foreign_letters: int = 0
    #: Records that operators gave up, one line each.
    decided_by_people: list[str] = field(default_factory=list)

    def tell(self, topics: Topics, findings: Findings) -> None:
        """Add the notes."""
        tell, counts = findings.notes.append, self.counts
        source = topics.user_registrations.name
        decided = [f"{self.outcomes[outcome]:,} {_word(outcome)}" for outcome in Outcome]
        if self.outcomes[UNJUDGED]:
            decided.append(f"{self.outcomes[UNJUDGED]:,} not judged")
        tell(
            f"{source}: {self.partitions} partitions, {counts[source]:,} records: "
            f"{', '.join(decided)}"
        )
        for topic in (topics.email_claims, topics.email_decisions, topics.registration_outcomes):
            tell(f"{topic.name}: {counts[topic.name]:,} records")
        for table in (USERS, EMAILS):
            tell(f"{table}: {counts[table]:,} rows")
        tell(f"{topics.dead_letter.name}: dead letters of {self.letters:,} records")
        findings.notes.extend(self.decided_by_people)
        if self.not_applied:
            tell(f"not applied yet: {self.not_applied:,} records")
        if self.open_attempts:
            tell(f"{self.open_attempts:,} users wait for the verdict on their address")
        if self.held_as_0_8_did:
            tell(
                f"{self.held_as_0_8_did:,} addresses with a label xn-- were claimed by version "
                "0.8: others can still take them; to claim them again, see "
                "docs/decisions/email-addresses.md"
            )
        if self.foreign_letters:
            tell(f"{self.foreign_letters:,} records there are no dead letters of ours")
        if self.foreign_copies:
            tell(f"{self.foreign_copies:,} records say that they were moved, and were not")


def _word(outcome: Outcome) -> str:
    return outcome.name.lower().replace("_", "-")


@dataclass(slots=True)
class Lacking:
    """What may be gone with the beginning of topics."""

    claims: int = 0
    verdicts: int = 0
    outcomes: int = 0
    #: Records that were rejected because too many waited, according to the table alone.
    rejections: int = 0
    letters: int = 0
    #: Records that were skipped by an operator, according to the table alone.
    skips: int = 0
    copies: int = 0

    def tell(self, topics: Topics, findings: Findings) -> None:
        """Report each topic of which something may be gone."""
        of = {
            topics.email_claims.name: (self.claims, "claims and releases of {:,} records"),
            topics.email_decisions.name: (self.verdicts, "verdicts on {:,} claims"),
            topics.registration_outcomes.name: (self.outcomes, "outcomes of {:,} records"),
            topics.dead_letter.name: (self.letters, "letters of {:,} records"),
            topics.user_registrations.name: (self.copies, "copies of {:,} records that were moved"),
        }
        for topic, (count, what) in of.items():
            if count:
                findings.unchecked.append(
                    f"{topic}: its beginning is gone, perhaps with the {what.format(count)}"
                )
        believed = (
            (topics.registration_outcomes.name, self.rejections, "rejected as too-many-pending"),
            (topics.dead_letter.name, self.skips, "skipped"),
        )
        for topic, count, what in believed:
            if count:
                findings.unchecked.append(
                    f"{topic}: its beginning is gone; that {count:,} records were {what} is what "
                    "users says"
                )
