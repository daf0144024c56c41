"""The fold f, pure: users that follow from the records of a partition and the verdicts.

While an attempt is open, later records of its id wait. So it does not matter when its verdict came
among the records of other ids. Here an attempt is settled at once if there is a verdict, and else
never.

Only one outcome depends on when verdicts came: a rejection because too many records waited. It is
taken from `registration-outcomes`, and `queues` checks what can be proved. If the outcomes of a
partition have lost their beginning, the outcomes that the table keeps are believed and counted.

An encoded row is kept for each user: half a gigabyte for a million.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from app.domain.consumed_records import ConsumedRecord
from app.domain.decisions import Decisions, is_open, places_for, waiting_in
from app.domain.email_claims import Verdict
from app.domain.outcomes import Outcome
from app.domain.parsing import sort
from app.domain.records import Command, Queued, UserRow, decode_row, encode_row, is_erasure
from app.ops.verify.copies import Copies
from app.ops.verify.expected_claims import ExpectedClaims
from app.ops.verify.expected_outcomes import ExpectedOutcomes
from app.ops.verify.outcomes import OutcomesFold
from app.ops.verify.places import Offsets, Span
from app.ops.verify.queues import Queues
from app.ops.verify.splits import Cutting, Handed
from app.ops.verify.tables import UNJUDGED, TableFold, kept, row_of
from app.ops.verify.verdicts import Verdicts


@dataclass(slots=True)
class UsersFold:
    """One partition of ``user-registrations``, decided as far as it is applied."""

    verdicts: Verdicts
    #: The outcomes of the records that ``registration-outcomes`` has.
    telling: OutcomesFold
    #: The present number of partitions.
    partitions: int
    cutting: Cutting
    #: The claims and releases that follow from the records.
    claims: ExpectedClaims
    #: The outcomes that the table keeps, if the beginning of the log or of the verdicts is gone.
    #: They show the first record of an id that can be judged.
    kept: TableFold | None = None
    #: The same, if the beginning of the outcomes is gone. They show which records were rejected
    #: because too many waited.
    kept_rejections: TableFold | None = None
    #: Records that an operator has skipped.
    skipped: Collection[int] = ()
    #: The same, if the beginning of the dead letters is gone. They show which records may have been
    #: skipped.
    kept_skips: TableFold | None = None
    #: Partitions of the log whose beginning is gone, perhaps with copies of moved records.
    begun_late: Collection[int] = ()
    #: The first rows, if the partition was split off another one.
    handed: Handed = field(default_factory=Handed)

    #: By key: the row, behind the offset of the record that changed it last.
    rows: dict[bytes, bytes] = field(default_factory=dict)
    #: Records that were applied although too many records of their id waited.
    overtaking: Offsets = field(default_factory=Offsets)
    #: Records that were rejected because too many waited, according to the table alone.
    believed_rejections: int = 0
    #: Records that were skipped, according to the table alone.
    believed_skips: int = 0
    records: int = 0
    not_applied: int = 0

    outcomes: ExpectedOutcomes = field(init=False)
    copies: Copies = field(init=False)
    queues: Queues = field(init=False)
    _decisions: Decisions = field(init=False)
    _open: set[bytes] = field(default_factory=set)
    #: The keys whose row is known, if ``kept`` is used.
    _known: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.outcomes = ExpectedOutcomes(self.span)
        self.copies = Copies(self.span.partition, self.partitions)
        self.queues = Queues(self.telling, self.outcomes.of)
        self._decisions = Decisions(self.span.partition, self.claims.email_key)
        self.rows.update(self.handed.rows)
        self._known.update(self.handed.known)

    @property
    def span(self) -> Span:
        """The records that are decided."""
        return self.verdicts.asking

    @property
    def is_quiet(self) -> bool:
        """Whether everything that was found is applied, also the verdicts."""
        return self.not_applied == 0 and self.verdicts.is_quiet

    @property
    def is_whole(self) -> bool:
        """Whether every row can be judged."""
        return self.kept is None

    @property
    def open_attempts(self) -> int:
        """How many ids wait for a verdict."""
        return len(self._open)

    def knows(self, key: bytes) -> bool:
        """Return whether the row of a key is known."""
        return self.kept is None or key in self._known

    def waiting(self) -> set[int]:
        """Return the offsets of the records that wait behind open attempts."""
        rows = (decode_row(row_of(self.rows[key])) for key in self._open)
        return {queued[0] for row in rows for queued in row.get("queue", ())}

    # -- folding

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Fold the next records."""
        self.copies.note(records)
        count = bisect_left(records, self.span.until, key=lambda record: record.offset)
        self.records += len(records)
        self.not_applied += len(records) - count
        for piece in self.cutting.pieces_of(records[:count], self._cut):
            self._decide(piece)

    def _cut(self) -> None:
        self.cutting.cut(self.rows, self._known, is_whole=self.is_whole)

    def finish(self) -> None:
        """Hand on the rows that were split off; add releases for verdicts without an attempt."""
        while not self.cutting.is_last:
            self._cut()
        releases = self.claims.releases
        expected = releases.perhaps if self.claims.begun_late else releases.certain
        for offset, release in self.verdicts.left():
            if self.outcomes.of(offset) != UNJUDGED:
                expected.add_hash(release, self.span.partition, offset)

    def _decide(self, records: Sequence[ConsumedRecord]) -> None:
        batch = sort(self.span.partition, records, self.cutting.partitions)
        for record, _ in batch.unreadable:
            self.outcomes.note_letter(record.offset)
        for move in batch.elsewhere:
            offset = move.arrival.offset
            if not self._is_skipped(offset):
                is_certain = move.partition not in self.begun_late
                self.outcomes.note_move(offset, is_certain=is_certain)
        for key, (record, command) in zip(batch.keys, batch.here, strict=True):
            if not self._is_skipped(record.offset):
                self._decide_one(key, Queued(record.offset, record.timestamp, command))
        self.claims.sort(self.cutting.partitions)

    def _decide_one(self, key: bytes, asked: Queued) -> None:
        if self._is_rejected(key, asked):
            self._decisions.reject(key, asked)
            self._note_decisions(asked.offset)
            return
        if self._finds_no_place(key, asked):
            self.overtaking.add(asked.offset)
        if self.knows(key) or self._learns(key, asked.offset, asked.command):
            self._ask(key, asked)
        else:
            self.outcomes.note(asked.offset, UNJUDGED)

    def _is_skipped(self, offset: int) -> bool:
        """Return whether an operator has skipped a record, and note it."""
        kept = self.kept_skips
        believed = kept is not None and kept.outcome(offset) == Outcome.DEAD_LETTER
        if offset not in self.skipped and not believed:
            return False
        self.believed_skips += offset not in self.skipped
        self.outcomes.note_letter(offset)
        return True

    def _is_rejected(self, key: bytes, asked: Queued) -> bool:
        """Return whether a record was rejected because too many waited."""
        if self.telling.rejects(key, asked.offset):
            self.queues.rejected(key, asked)
            return True
        kept = self.kept_rejections
        if kept is None or self.telling.place(asked.offset) is not None:
            return False
        believed = kept.outcome(asked.offset) == Outcome.TOO_MANY_PENDING
        self.believed_rejections += believed
        return believed

    def _finds_no_place(self, key: bytes, asked: Queued) -> bool:
        """Return whether a record should have been rejected, but was not."""
        if self.queues.accepted(key, asked):
            return True
        if key not in self._open:
            return False
        row = decode_row(row_of(self.rows[key]))
        return waiting_in(row) >= places_for(asked.command)

    def _learns(self, key: bytes, offset: int, command: Command) -> bool:
        """Return whether a record is the first of its id that can be judged.

        Its outcome can show that there was no row before. After an erasure there is none.
        """
        outcome = self._kept_outcome(offset)
        if is_erasure(command):
            if outcome == Outcome.ERASED:
                self._known.add(key)
            return False
        free = (
            (Outcome.UNKNOWN_ID,)
            if command.get("type") == "update"
            else (Outcome.REGISTERED, Outcome.EMAIL_TAKEN)
        )
        if outcome in free:
            self._known.add(key)
            return True
        return False

    def _kept_outcome(self, offset: int) -> int:
        return 0 if self.kept is None else self.kept.outcome(offset)

    def _ask(self, key: bytes, asked: Queued) -> None:
        stored = self.rows.get(key)
        row = None if stored is None else decode_row(row_of(stored))
        waits = key in self._open
        new = self._decisions.accept(row, key, asked)
        if not waits and new is not None and is_open(new):
            new = self._settle(new, key, asked.offset)
        self._note_decisions(asked.offset)
        if self._lacks_verdict(new, asked.offset):
            self._forget(key, asked.offset)
        elif new is not row:
            self._keep(key, new, asked.offset)

    def _settle(self, row: UserRow, key: bytes, offset: int) -> UserRow | None:
        """Settle the attempt that a record has just opened, if its verdict is there."""
        word = self.verdicts.take(offset, key)
        if word is None:
            return row
        claim = self._decisions.claims[-1]
        verdict = Verdict(
            email_key=claim.email_key.decode(), attempt=claim.attempt, verdict=word, at=""
        )
        return self._decisions.settle(row, key, verdict)

    def _lacks_verdict(self, row: UserRow | None, offset: int) -> bool:
        """Return whether the verdict on an open attempt is gone, and only the outcome is kept."""
        return (
            not self.verdicts.is_whole
            and row is not None
            and is_open(row)
            and self._kept_outcome(offset) != Outcome.PENDING
        )

    def _forget(self, key: bytes, offset: int) -> None:
        self._keep(key, None, offset)
        self._known.discard(key)
        self.outcomes.note(offset, UNJUDGED)

    def _keep(self, key: bytes, row: UserRow | None, offset: int) -> None:
        if row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = kept(offset, encode_row(row))
        if row is not None and is_open(row):
            self._open.add(key)
        else:
            self._open.discard(key)

    def _note_decisions(self, offset: int) -> None:
        decisions = self._decisions
        for decided in decisions.outcomes:
            self.outcomes.note_decided(decided)
        self.claims.note(decisions.claims, offset)
        decisions.outcomes.clear()
        decisions.claims.clear()
