"""Runs a verification: markers, emails, users, then what spans partitions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faust.types import TP

from app.config.settings import Settings
from app.engine.marker import rules
from app.kafka.partition_reader import Extent, Reader, reader
from app.kafka.partitioning import Partitioning, read
from app.kafka.progress import bar
from app.kafka.topics import Topics, declare
from app.ops.verify.comparison import (
    EMAIL_ROWS,
    USER_ROWS,
    compare_claims,
    compare_outcomes,
    compare_pages,
    compare_rows,
    compare_verdicts,
)
from app.ops.verify.emails import EmailsFold, FoundClaims
from app.ops.verify.findings import Difference, Findings
from app.ops.verify.group import applied_by_group, until_decided
from app.ops.verify.letters import LetterFold, compare_letters
from app.ops.verify.logs import EMAILS, USERS, Logs, late
from app.ops.verify.markers import Found, newest
from app.ops.verify.moves import Moves, OutcomesTopic, compare_moves
from app.ops.verify.multisets import Multiset
from app.ops.verify.outcomes import OutcomesFold
from app.ops.verify.places import Offsets, Span, place
from app.ops.verify.reading import IndependentScan
from app.ops.verify.report import Lacking, Totals
from app.ops.verify.splits import Cutting, Handed, parent, pieces
from app.ops.verify.stores import Store, compare_store, held
from app.ops.verify.tables import HeldByUsers, TableFold, digested, held_in_emails
from app.ops.verify.users import UsersFold
from app.ops.verify.verdicts import Verdicts


async def verify(settings: Settings, findings: Findings, stores: Sequence[Path] = ()) -> None:
    """Verify a registry, and the stores in data folders; raise `RegistryError` if that cannot be.

    Workers may run meanwhile, but not on the stores that are to be compared.
    """
    partitioning = await read(settings)
    settings = partitioning.of(settings)
    topics, kafka, scan = declare(settings), settings.kafka, IndependentScan()
    with held(stores, (USERS, EMAILS)) as databases:
        async with (
            reader(kafka, topics.all(), scan=scan) as committed,
            reader(kafka, (), "read_uncommitted") as everything,
        ):
            # Before the changelogs are looked at: a marker may have gone on since, and never back.
            applied = await applied_by_group(settings, topics, findings)
            await until_decided(topics, committed, everything)
            logs = await Logs.find(topics, committed, everything)
            verification = Verification(settings, partitioning, topics, logs, committed, findings)
            await verification.find_markers(applied)
            with bar(logs.size(databases)) as committed.advance:
                await verification.run(databases)
            if batches := len(scan.left_to_engine):
                findings.notes.append(
                    f"{batches:,} batches were read by the engine's parser: aiokafka's cannot read "
                    "them, or not in bounded memory"
                )


@dataclass(slots=True)
class _Settled:
    """What is left of a partition of claims once it is folded."""

    span: Span
    is_quiet: bool
    is_whole: bool
    unreadable: Offsets


@dataclass(slots=True)
class _Decided:
    """What is left of a partition of users once it is folded: what was moved away."""

    span: Span
    is_quiet: bool
    moved: Offsets
    perhaps: Offsets
    kept_moves: dict[int, bytes]


@dataclass(slots=True)
class Verification:
    """One verification, by what there is to read."""

    settings: Settings
    partitioning: Partitioning
    topics: Topics
    logs: Logs
    reading: Reader
    findings: Findings

    totals: Totals = field(init=False)
    lacking: Lacking = field(default_factory=Lacking)
    users_markers: list[Found] = field(default_factory=list)
    emails_markers: list[Found] = field(default_factory=list)
    #: Of each partition of claims, and of each of users.
    settled: list[_Settled] = field(default_factory=list)
    decided: list[_Decided] = field(default_factory=list)
    #: By partition of the users: claims of theirs that were found, verdicts that they must get.
    claims: list[FoundClaims] = field(init=False)
    verdicts: list[Multiset] = field(init=False)
    #: By partition that was split off: what it began with.
    handed_emails: dict[int, Handed] = field(default_factory=dict)
    handed_users: dict[int, Handed] = field(default_factory=dict)
    #: Who holds which address, by either table.
    held_by_users: Multiset = field(default_factory=Multiset)
    held_in_emails: Multiset = field(default_factory=Multiset)
    #: By the partition where records were first: copies elsewhere, outcomes that tell of them.
    copies: defaultdict[int, list[Multiset]] = field(default_factory=lambda: defaultdict(list))
    moves_told: defaultdict[int, list[Multiset]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        numbers = range(self.logs.partitions)
        self.totals = Totals(len(numbers))
        self.claims = [FoundClaims() for _ in numbers]
        self.verdicts = [Multiset() for _ in numbers]

    async def find_markers(self, applied: Mapping[TP, int]) -> None:
        """Find up to where everything is applied, and whether the sources are what was applied.

        Raises `SettingsError` if others decided it.
        ``applied`` says up to where the group has applied the sources, as far as it tells.
        """
        ours = rules(self.settings.email_keys)
        for markers, changelogs, sources in (
            (self.users_markers, self.logs.users, (self.logs.registrations, self.logs.decisions)),
            (self.emails_markers, self.logs.emails, (self.logs.claims,)),
        ):
            for changelog in changelogs:
                found = await newest(self.reading, changelog)
                found.require(ours)
                markers.append(found)
                if found.wrong is not None:
                    self.findings.differs(Difference.MARKER, found.wrong)
                for logs in sources:
                    log = logs[changelog.partition]
                    await found.compare_source(self.reading, log, self.findings)
        for source, offset in applied.items():
            of_emails = source.topic == self.topics.email_claims.name
            markers = self.emails_markers if of_emails else self.users_markers
            markers[source.partition].require_applied(source.topic, offset, self.findings)

    async def run(self, stores: Sequence[Store]) -> None:
        """Verify everything, and tell the findings."""
        for number in range(self.logs.partitions):
            await self._emails(number)
        for number in range(self.logs.partitions):
            await self._users(number)
        self._compare_moves()
        self._compare_holders()
        self.totals.tell(self.topics, self.findings)
        self.lacking.tell(self.topics, self.findings)
        for store in stores:
            await self._store(store)

    # -- emails

    async def _emails(self, number: int) -> None:
        log, changelog = self.logs.claims[number], self.logs.emails[number]
        span = self.emails_markers[number].span(log, self.findings)
        handed = self.handed_emails.pop(number, Handed())
        fold = EmailsFold(span, self.claims, self.verdicts, self._cutting(log), handed)
        async for records in self.reading.read(log):
            fold.add(records)
        fold.finish()
        self.handed_emails.update(fold.cutting.handed)
        digested(fold.rows)
        table = TableFold(number, held_in_emails)
        async for records in self.reading.read(changelog):
            table.add(records)
        if fold.is_whole:
            compare_rows(EMAIL_ROWS, fold.rows, span, table, changelog.topic, self.findings)
        else:
            origin = self._origin(self.logs.claims, number)
            self.findings.unchecked.append(
                f"{origin.topic} {origin.partition}: the log begins at {origin.start}; whether its "
                f"{len(table.rows):,} rows of emails, and which claims won, are right is not known"
            )
        table.add_holders(self.held_in_emails)
        self.settled.append(_Settled(span, fold.is_quiet, fold.is_whole, fold.unreadable))
        self.totals.counts.update({log.topic: fold.records, EMAILS: len(table.rows)})
        self.totals.not_applied += fold.not_applied

    def _cutting(self, log: Extent) -> Cutting:
        return Cutting(log.partition, pieces(self.partitioning, log.topic, log.partition))

    def _origin(self, logs: Sequence[Extent], number: int) -> Extent:
        """Return the log that has the beginning of a partition, which may have been split off."""
        before = parent(self.partitioning, number)
        late = logs[number].start or before is None
        return logs[number] if late or before is None else self._origin(logs, before)

    @property
    def _claims_quiet(self) -> bool:
        return all(settled.is_quiet for settled in self.settled)

    # -- users

    async def _users(self, number: int) -> None:
        verdicts = await self._verdicts(number)
        self._compare_verdicts(number, verdicts)
        outcomes = await self._outcomes(number, verdicts.asking)
        letters = await self._letters(number)
        fold = await self._records(number, verdicts, outcomes, letters)
        self._compare_claims(number, fold)
        self._compare_outcomes(fold, outcomes)
        self._compare_letters(number, fold, letters)
        await self._users_table(number, fold)
        self._count(number, fold)

    async def _verdicts(self, number: int) -> Verdicts:
        marker, findings = self.users_markers[number], self.findings
        verdicts = Verdicts(
            marker.span(self.logs.decisions[number], findings),
            marker.span(self.logs.registrations[number], findings),
            [settled.span for settled in self.settled],
            [settled.is_quiet for settled in self.settled],
            [settled.is_whole for settled in self.settled],
        )
        async for records in self.reading.read(self.logs.decisions[number]):
            verdicts.add(records)
        return verdicts

    async def _records(
        self, number: int, verdicts: Verdicts, outcomes: OutcomesFold, letters: LetterFold
    ) -> UsersFold:
        logs, log = self.logs, self.logs.registrations[number]
        handed = self.handed_users.pop(number, Handed())
        begins_late = logs.begins_late(number) or not handed.is_whole
        lacks_letters = bool(logs.dead_letters[number].start)
        lacks_something = begins_late or not outcomes.is_whole or lacks_letters
        kept = await self._kept_outcomes(number) if lacks_something else None
        fold = UsersFold(
            verdicts,
            outcomes,
            logs.partitions,
            self.settings.email_keys,
            self._cutting(log),
            self.claims[number],
            kept if begins_late else None,
            kept if not outcomes.is_whole else None,
            letters.skipped_of(log.topic),
            kept if lacks_letters else None,
            late(logs.registrations),
            late(logs.claims),
            handed,
        )
        async for records in self.reading.read(log):
            fold.add(records)
        fold.finish()
        self.handed_users.update(fold.cutting.handed)
        return fold

    async def _kept_outcomes(self, number: int) -> TableFold:
        kept = TableFold(number)
        async for records in self.reading.read(self.logs.users[number]):
            kept.add_bookkeeping(records)
        return kept

    def _compare_verdicts(self, number: int, verdicts: Verdicts) -> None:
        expected, self.verdicts[number] = self.verdicts[number], Multiset()
        self.lacking.verdicts += compare_verdicts(expected, verdicts, self.topics, self.findings)
        verdicts.found = Multiset()  # many, and not needed any more

    def _compare_claims(self, number: int, fold: UsersFold) -> None:
        found, self.claims[number] = self.claims[number], FoundClaims()
        self.lacking.claims += compare_claims(
            fold, found, self._claims_quiet, self.topics, self.findings
        )

    async def _outcomes(self, number: int, asking: Span) -> OutcomesFold:
        extent = self.logs.outcomes[number]
        outcomes = OutcomesFold(number, self.logs.partitions, asking, not extent.start)
        async for records in self.reading.read(extent):
            outcomes.add(records)
        for origin, told in outcomes.moved.items():
            self.moves_told[origin].append(told)
        self.totals.counts[extent.topic] += outcomes.records
        return outcomes

    def _compare_outcomes(self, fold: UsersFold, outcomes: OutcomesFold) -> None:
        self.lacking.outcomes += compare_outcomes(
            fold, outcomes.found, outcomes.is_whole, self.topics, self.findings
        )
        self.lacking.rejections += fold.believed_rejections
        for difference, offsets in (
            (Difference.OVERTAKEN, fold.overtaking),
            (Difference.UNTRUE_REJECTION, fold.queues.untrue),
        ):
            for offset in offsets.all:
                self.findings.differs(difference, fold.span.place(offset))

    async def _letters(self, number: int) -> LetterFold:
        letters = LetterFold(number, self.logs.partitions)
        async for records in self.reading.read(self.logs.dead_letters[number]):
            letters.add(records)
        return letters

    def _compare_letters(self, number: int, fold: UsersFold, letters: LetterFold) -> None:
        extent, claims = self.logs.dead_letters[number], self.settled[number]
        for span, unreadable in (
            (fold.span, fold.unreadable),
            (fold.verdicts.span, fold.verdicts.unreadable),
            (claims.span, claims.unreadable),
        ):
            self.lacking.letters += compare_letters(
                letters, span, unreadable, not extent.start, self.findings
            )
        self.totals.letters += letters.count()
        self.totals.foreign_letters += letters.others
        self.totals.decided_by_people += [
            *(f"{lost} were lost, and accepted as lost ({lost.why})" for lost in letters.lost),
            *(f"{skipped} was skipped ({skipped.why})" for skipped in letters.skipped),
        ]
        self.lacking.skips += fold.believed_skips

    async def _users_table(self, number: int, fold: UsersFold) -> None:
        changelog = self.logs.users[number]
        compared = fold.is_quiet and self._claims_quiet
        digested(fold.rows)
        holding = HeldByUsers(self.settings.email_keys, self.held_in_emails)
        table = TableFold(number, holding if compared else None)
        async for records in self.reading.read(changelog):
            table.add(records)
        unknown = compare_rows(
            USER_ROWS, fold.rows, fold.span, table, changelog.topic, self.findings, fold.knows
        )
        compare_pages(fold, table, self.findings)
        if not fold.is_whole:
            self._tell_of_beginning(number, fold, unknown)
        table.add_holders(self.held_by_users)
        self.decided.append(
            _Decided(fold.span, fold.is_quiet, fold.moved, fold.moved_perhaps, table.moves)
        )
        self.totals.counts[USERS] += len(table.rows)
        self.totals.open_attempts += fold.open_attempts
        self.totals.held_as_0_8_did += holding.as_0_8_did

    def _tell_of_beginning(self, number: int, fold: UsersFold, unknown: int) -> None:
        logs = (self.logs.registrations, self.logs.decisions)
        origins = (self._origin(of, number) for of in logs)
        begins = [f"{of.topic} {of.partition} begins at {of.start}" for of in origins if of.start]
        self.findings.unchecked.append(
            f"{', '.join(begins)}: {unknown:,} rows of users and {fold.not_judged:,} later records "
            "depend on what stood before that"
        )

    def _count(self, number: int, fold: UsersFold) -> None:
        for origin, copies in fold.copies.items():
            self.copies[origin].append(copies)
        verdicts, totals = fold.verdicts, self.totals
        totals.outcomes.update(fold.counts())
        totals.counts[self.logs.registrations[number].topic] += fold.records
        totals.counts[self.logs.decisions[number].topic] += verdicts.records
        totals.not_applied += fold.not_applied + verdicts.not_applied
        totals.foreign_copies += fold.foreign_copies

    # -- across partitions

    def _compare_moves(self) -> None:
        outcomes = OutcomesTopic(self.topics.registration_outcomes.name, late(self.logs.outcomes))
        for number, decided in enumerate(self.decided):
            moves = Moves(
                decided.span,
                decided.is_quiet,
                decided.moved,
                decided.perhaps,
                decided.kept_moves,
                Multiset.joined(self.copies[number]),
                Multiset.joined(self.moves_told[number]),
            )
            gone = compare_moves(moves, outcomes, self.findings)
            self.lacking.copies += gone.copies
            self.lacking.outcomes += gone.outcomes
            self.totals.foreign_copies += gone.foreign

    def _compare_holders(self) -> None:
        """Compare who holds which address (I3 to I5), where no change of that is on its way.

        One address has one row of ``emails``, so that two users cannot both have it there.
        """
        quiet = sum(decided.is_quiet for decided in self.decided) if self._claims_quiet else 0
        for user in self.held_by_users.without(self.held_in_emails):
            where = place(self.topics.users_changelog.name, user.partition, user.offset)
            self.findings.differs(Difference.NOT_HELD, where)
        if quiet < len(self.decided) or self.totals.open_attempts:
            self.findings.notes.append(
                f"records are in flight: that users hold their addresses was checked in {quiet} of "
                f"{len(self.decided)} partitions, and not that nobody else holds any"
            )
            return
        for holder in self.held_in_emails.without(self.held_by_users):
            where = place(self.topics.emails_changelog.name, holder.partition, holder.offset)
            self.findings.differs(Difference.HELD_BY_NOBODY, where)

    # -- stores

    async def _store(self, store: Store) -> None:
        changelog: Extent | None = self.logs.changelog_of(store)
        if changelog is None:
            self.findings.unchecked.append(f"{store.path}: there is no such partition")
        else:
            await compare_store(store, changelog, self.reading, self.findings)
