"""Verifies a partition of ``user-registrations`` and all that follows from it."""

from app.ops.verify.comparison import (
    USER_ROWS,
    compare_claims,
    compare_count,
    compare_outcomes,
    compare_pages,
    compare_rows,
    compare_verdicts,
)
from app.ops.verify.emails import FoundClaims
from app.ops.verify.expected_claims import ExpectedClaims
from app.ops.verify.findings import Difference
from app.ops.verify.letters import LetterFold, compare_letters
from app.ops.verify.logs import USERS, late
from app.ops.verify.multisets import Multiset
from app.ops.verify.outcomes import OutcomesFold
from app.ops.verify.places import Span
from app.ops.verify.splits import Handed
from app.ops.verify.state import DecidedUsers, State
from app.ops.verify.tables import HeldByUsers, TableFold, digested, registration_day
from app.ops.verify.users import UsersFold
from app.ops.verify.verdicts import Verdicts


class UsersPass:
    """Reads what belongs to one partition of users, folds it, and compares."""

    def __init__(self, state: State, number: int) -> None:
        self._state = state
        self._number = number

    async def run(self) -> None:
        """Verify the partition; every difference goes to the findings."""
        verdicts = await self._verdicts()
        self._compare_verdicts(verdicts)
        outcomes = await self._outcomes(verdicts.asking)
        letters = await self._letters()
        fold = await self._records(verdicts, outcomes, letters)
        self._compare_claims(fold)
        self._compare_outcomes(fold, outcomes)
        self._compare_letters(fold, letters)
        await self._users_table(fold)
        self._count(fold)

    async def _verdicts(self) -> Verdicts:
        marker, findings = self._state.users_markers[self._number], self._state.findings
        verdicts = Verdicts(
            marker.span(self._state.logs.decisions[self._number], findings),
            marker.span(self._state.logs.registrations[self._number], findings),
            [settled.span for settled in self._state.settled],
            [settled.is_quiet for settled in self._state.settled],
            [settled.is_whole for settled in self._state.settled],
        )
        async for records in self._state.reading.read(self._state.logs.decisions[self._number]):
            verdicts.add(records)
        return verdicts

    async def _records(
        self, verdicts: Verdicts, outcomes: OutcomesFold, letters: LetterFold
    ) -> UsersFold:
        logs, log = self._state.logs, self._state.logs.registrations[self._number]
        handed = self._state.handed_users.pop(self._number, Handed())
        begins_late = logs.begins_late(self._number) or not handed.is_whole
        lacks_letters = bool(logs.dead_letters[self._number].start)
        lacks_something = begins_late or not outcomes.is_whole or lacks_letters
        kept = await self._kept_outcomes() if lacks_something else None
        claims = ExpectedClaims(
            self._number,
            self._state.settings.email_keys,
            self._state.claims[self._number],
            late(logs.claims),
        )
        fold = UsersFold(
            verdicts,
            outcomes,
            logs.partitions,
            self._state.cutting(log),
            claims,
            kept=kept if begins_late else None,
            kept_rejections=kept if not outcomes.is_whole else None,
            skipped=letters.skipped_of(log.topic),
            kept_skips=kept if lacks_letters else None,
            begun_late=late(logs.registrations),
            handed=handed,
        )
        async for records in self._state.reading.read(log):
            fold.add(records)
        fold.finish()
        self._state.handed_users.update(fold.cutting.handed)
        return fold

    async def _kept_outcomes(self) -> TableFold:
        kept = TableFold(self._number)
        async for records in self._state.reading.read(self._state.logs.users[self._number]):
            kept.add_bookkeeping(records)
        return kept

    def _compare_verdicts(self, verdicts: Verdicts) -> None:
        expected, self._state.verdicts[self._number] = (
            self._state.verdicts[self._number],
            Multiset(),
        )
        self._state.lacking.verdicts += compare_verdicts(
            expected, verdicts, self._state.topics, self._state.findings
        )
        verdicts.found = Multiset()  # they take memory, and are not needed any more

    def _compare_claims(self, fold: UsersFold) -> None:
        found, self._state.claims[self._number] = self._state.claims[self._number], FoundClaims()
        self._state.lacking.claims += compare_claims(
            fold, found, self._state.claims_are_quiet, self._state.topics, self._state.findings
        )

    async def _outcomes(self, asking: Span) -> OutcomesFold:
        extent = self._state.logs.outcomes[self._number]
        outcomes = OutcomesFold(self._number, self._state.logs.partitions, asking, not extent.start)
        async for records in self._state.reading.read(extent):
            outcomes.add(records)
        for origin, told in outcomes.moved.items():
            self._state.moves_told[origin].append(told)
        self._state.totals.counts[extent.topic] += outcomes.records
        return outcomes

    def _compare_outcomes(self, fold: UsersFold, outcomes: OutcomesFold) -> None:
        self._state.lacking.outcomes += compare_outcomes(
            fold, outcomes.found, outcomes.is_whole, self._state.topics, self._state.findings
        )
        self._state.lacking.rejections += fold.believed_rejections
        for difference, offsets in (
            (Difference.OVERTAKEN, fold.overtaking),
            (Difference.UNTRUE_REJECTION, fold.queues.untrue),
        ):
            for offset in offsets.all:
                self._state.findings.differs(difference, fold.span.place(offset))

    async def _letters(self) -> LetterFold:
        letters = LetterFold(self._number, self._state.logs.partitions)
        async for records in self._state.reading.read(self._state.logs.dead_letters[self._number]):
            letters.add(records)
        return letters

    def _compare_letters(self, fold: UsersFold, letters: LetterFold) -> None:
        extent, claims = (
            self._state.logs.dead_letters[self._number],
            self._state.settled[self._number],
        )
        for span, unreadable in (
            (fold.span, fold.outcomes.unreadable),
            (fold.verdicts.span, fold.verdicts.unreadable),
            (claims.span, claims.unreadable),
        ):
            self._state.lacking.letters += compare_letters(
                letters, span, unreadable, not extent.start, self._state.findings
            )
        self._state.totals.letters += letters.count()
        self._state.totals.foreign_letters += letters.others
        self._state.totals.decided_by_people += [
            *(f"{lost} were lost, and accepted as lost ({lost.why})" for lost in letters.lost),
            *(f"{skipped} was skipped ({skipped.why})" for skipped in letters.skipped),
        ]
        self._state.lacking.skips += fold.believed_skips

    async def _users_table(self, fold: UsersFold) -> None:
        changelog = self._state.logs.users[self._number]
        compared = fold.is_quiet and self._state.claims_are_quiet
        digested(fold.rows)
        holding = HeldByUsers(self._state.settings.email_keys, self._state.held_in_emails)
        table = TableFold(self._number, holding if compared else None, registration_day)
        async for records in self._state.reading.read(changelog):
            table.add(records)
        unknown = compare_rows(
            USER_ROWS,
            fold.rows,
            fold.span,
            table,
            changelog.topic,
            self._state.findings,
            fold.knows,
        )
        compare_pages(fold, table, self._state.findings)
        compare_count(table, changelog.topic, self._state.findings)
        if not fold.is_whole:
            self._tell_of_beginning(fold, unknown)
        table.add_holders(self._state.held_by_users)
        self._state.decided.append(
            DecidedUsers(
                fold.span,
                fold.is_quiet,
                fold.outcomes.moved,
                fold.outcomes.moved_perhaps,
                table.moves,
            )
        )
        self._state.totals.counts[USERS] += len(table.rows)
        self._state.totals.open_attempts += fold.open_attempts
        self._state.totals.held_as_0_8_did += holding.as_0_8_did

    def _tell_of_beginning(self, fold: UsersFold, unknown: int) -> None:
        logs = (self._state.logs.registrations, self._state.logs.decisions)
        origins = (self._state.origin(of, self._number) for of in logs)
        begins = [f"{of.topic} {of.partition} begins at {of.start}" for of in origins if of.start]
        self._state.findings.unchecked.append(
            f"{', '.join(begins)}: {unknown:,} rows of users and "
            f"{fold.outcomes.not_judged:,} later records depend on what stood before that"
        )

    def _count(self, fold: UsersFold) -> None:
        for origin, copies in fold.copies.by_origin.items():
            self._state.copies[origin].append(copies)
        verdicts, totals = fold.verdicts, self._state.totals
        totals.outcomes.update(fold.outcomes.counts())
        totals.counts[self._state.logs.registrations[self._number].topic] += fold.records
        totals.counts[self._state.logs.decisions[self._number].topic] += verdicts.records
        totals.not_applied += fold.not_applied + verdicts.not_applied
        totals.foreign_copies += fold.copies.foreign
