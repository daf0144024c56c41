"""The fold f, pure: users that follow from the records of a partition and the verdicts.

While an attempt is open, later records of its id wait. So it does not matter when its verdict came
among the records of other ids: here it is settled at once, if there is one, and else never.

Only that a record was rejected because too many waited depends on when verdicts came. It is taken
as `registration-outcomes` tells it; `queues` says what of it can be proved. Where the outcomes of a
partition have lost their beginning, those that the table keeps are believed instead, and counted.

An encoded row is kept for each user: half a gigabyte for a million.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.domain.consumed_records import ConsumedRecord
from app.domain.decisions import Claiming, Decisions, is_open, places_for, waiting_in
from app.domain.email_claims import Verdict
from app.domain.keys import EmailKeys, partitions_of
from app.domain.outcomes import Decided, Outcome
from app.domain.parsing import MOVED_FROM_HEADER, id_of, sort
from app.domain.positions import token
from app.domain.records import Command, Queued, UserRow, decode_row, encode_outcome, encode_row
from app.engine.marker import PAGE_RECORDS
from app.ops.verify.emails import FoundClaims, claim_said
from app.ops.verify.multisets import Multiset
from app.ops.verify.outcomes import OutcomesFold
from app.ops.verify.places import Offsets, Span, named
from app.ops.verify.queues import Queues
from app.ops.verify.splits import Cutting, Handed
from app.ops.verify.tables import UNJUDGED, TableFold, kept, row_of
from app.ops.verify.verdicts import Verdicts


@dataclass(slots=True)
class SentClaims:
    """Claims and releases that must stand in ``email-claims``, and those that may be gone."""

    certain: Multiset = field(default_factory=Multiset)
    perhaps: Multiset = field(default_factory=Multiset)


@dataclass(slots=True)
class UsersFold:
    """One partition of ``user-registrations``, decided as far as it is applied."""

    verdicts: Verdicts
    #: What is told of the records.
    telling: OutcomesFold
    #: How many partitions there are now.
    partitions: int
    email_keys: EmailKeys
    cutting: Cutting
    #: What stands in ``email-claims`` of the ids here.
    found: FoundClaims
    #: The outcomes that the table keeps, where the beginning of the log or of the verdicts is gone:
    #: they tell from which record on an id can be judged.
    kept: TableFold | None = None
    #: The same where the beginning of the outcomes is gone: they tell which records were rejected
    #: because too many waited.
    kept_rejections: TableFold | None = None
    #: Records that an operator has skipped.
    skipped: Collection[int] = ()
    #: The outcomes that the table keeps, where the beginning of the dead letters is gone: they tell
    #: which records may have been skipped.
    kept_skips: TableFold | None = None
    #: Partitions of the log whose beginning is gone: what was moved there may be gone.
    begun_late: Collection[int] = ()
    #: The same of ``email-claims``.
    claims_begun_late: Collection[int] = ()
    #: What was there at first, if the partition was split off another one.
    handed: Handed = field(default_factory=Handed)

    #: By key: the row, behind the offset of the record that changed it last.
    rows: dict[bytes, bytes] = field(default_factory=dict)
    #: One byte for each offset that is applied.
    outcomes: bytearray = field(init=False)
    #: The terminal ones, as they must be told in ``registration-outcomes``.
    told: Multiset = field(default_factory=Multiset)
    claims: SentClaims = field(default_factory=SentClaims)
    releases: SentClaims = field(default_factory=SentClaims)
    unreadable: Offsets = field(default_factory=Offsets)
    moved: Offsets = field(default_factory=Offsets)
    #: Moved to partitions that have begun late.
    moved_perhaps: Offsets = field(default_factory=Offsets)
    #: Records that were applied although too many of their id waited.
    overtaking: Offsets = field(default_factory=Offsets)
    #: Records that were moved here, by the partition where they stood, about their offsets there;
    #: each says the outcome that tells so.
    copies: defaultdict[int, Multiset] = field(default_factory=lambda: defaultdict(Multiset))
    foreign_copies: int = 0
    #: Records that were rejected because too many waited, as only the table tells.
    believed_rejections: int = 0
    #: Records that were skipped, as only the table tells.
    believed_skips: int = 0
    records: int = 0
    not_applied: int = 0

    queues: Queues = field(init=False)
    _decisions: Decisions = field(init=False)
    _open: set[bytes] = field(default_factory=set)
    #: Where ``kept`` is needed: the keys whose row is known.
    _known: set[bytes] = field(default_factory=set)
    _claiming: list[tuple[Claiming, int]] = field(default_factory=list)
    #: By key of an address: the one that 0.8 gave it, where that is another one.
    _keys_of_0_8: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outcomes = bytearray(max(self.span.until - self.span.start, 0))
        self.queues = Queues(self.telling, self.outcome)
        self._decisions = Decisions(self.span.partition, self._email_key)
        self.rows.update(self.handed.rows)
        self._known.update(self.handed.known)

    @property
    def span(self) -> Span:
        """The records that are decided."""
        return self.verdicts.asking

    @property
    def is_quiet(self) -> bool:
        """Whether everything that was found is applied, the verdicts, too."""
        return self.not_applied == 0 and self.verdicts.is_quiet

    @property
    def is_whole(self) -> bool:
        """Whether every row can be judged."""
        return self.kept is None

    @property
    def open_attempts(self) -> int:
        """How many ids wait for a verdict."""
        return len(self._open)

    @property
    def not_judged(self) -> int:
        """How many records follow others that are gone."""
        return self.outcomes.count(UNJUDGED)

    def knows(self, key: bytes) -> bool:
        """Return whether it is known which row a key must have, if any."""
        return self.kept is None or key in self._known

    def counts(self) -> Counter[int]:
        """Return how often there is each outcome."""
        counted = np.bincount(np.frombuffer(self.outcomes, np.uint8), minlength=256).tolist()
        return Counter({code: count for code, count in enumerate(counted) if code and count})

    def outcome(self, offset: int) -> int:
        """Return the outcome of a record, 0 if there is none or it is not applied."""
        return self.outcomes[offset - self.span.start] if offset in self.span else 0

    def page(self, number: int) -> bytes:
        """Return the outcomes of one page, 0 for what is not applied or gone."""
        start = number * PAGE_RECORDS - self.span.start
        before = bytes(max(-start, 0))
        page = before + self.outcomes[max(start, 0) : max(start + PAGE_RECORDS, 0)]
        return bytes(page[:PAGE_RECORDS].ljust(PAGE_RECORDS, b"\0"))

    def waiting(self) -> set[int]:
        """Return the offsets of the records that wait behind open attempts."""
        rows = (decode_row(row_of(self.rows[key])) for key in self._open)
        return {queued[0] for row in rows for queued in row.get("queue", ())}

    # -- folding

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Fold records, which follow those before."""
        for record in records:
            if record.headers:
                self._note_copy(record)
        count = bisect_left(records, self.span.until, key=lambda record: record.offset)
        self.records += len(records)
        self.not_applied += len(records) - count
        for piece in self.cutting.pieces_of(records[:count], self._cut):
            self._decide(piece)

    def _cut(self) -> None:
        self.cutting.cut(self.rows, self._known, is_whole=self.is_whole)

    def finish(self) -> None:
        """Hand on what was split off, and add what comes of verdicts that nobody waited for."""
        while not self.cutting.is_last:
            self._cut()
        releases = self.releases.perhaps if self.claims_begun_late else self.releases.certain
        for offset, release in self.verdicts.left():
            if self.outcome(offset) != UNJUDGED:
                releases.add_hash(release, self.span.partition, offset)

    def _note_copy(self, record: ConsumedRecord) -> None:
        origins = [value for name, value in record.headers if name == MOVED_FROM_HEADER]
        if not origins:
            return
        origin = named(origins[0], self.partitions)
        if origin is None:
            self.foreign_copies += 1
            return
        user_id = id_of(record) or ""
        moved = Decided(origin.offset, user_id, Outcome.MOVED)
        said = encode_outcome(origin.token(), moved, token(self.span.partition, record.offset))
        self.copies[origin.partition].add(
            (self.span.partition, user_id.encode(), said),
            self.span.partition,
            record.offset,
            origin.offset,
        )

    def _decide(self, records: Sequence[ConsumedRecord]) -> None:
        batch = sort(self.span.partition, records, self.cutting.partitions)
        for record, _ in batch.unreadable:
            self._note_letter(record.offset)
        for move in batch.elsewhere:
            if self._is_skipped(move.arrival.offset):
                continue
            self._note_outcome(move.arrival.offset, Outcome.MOVED)
            gone = move.partition in self.begun_late
            (self.moved_perhaps if gone else self.moved).add(move.arrival.offset)
        for key, (record, command) in zip(batch.keys, batch.here, strict=True):
            if self._is_skipped(record.offset):
                continue
            asked = Queued(record.offset, record.timestamp, command)
            if self._is_rejected(key, asked):
                self._decisions.reject(key, asked)
                self._note_decisions(asked.offset)
                continue
            if self._finds_no_place(key, asked):
                self.overtaking.add(asked.offset)
            if self.knows(key) or self._learns(key, record.offset, command):
                self._ask(key, asked)
            else:
                self._note_outcome(record.offset, UNJUDGED)
        self._note_claims()

    def _is_skipped(self, offset: int) -> bool:
        """Return whether an operator has made a record a dead letter, and note it."""
        kept = self.kept_skips
        believed = kept is not None and kept.outcome(offset) == Outcome.DEAD_LETTER
        if offset not in self.skipped and not believed:
            return False
        self.believed_skips += offset not in self.skipped
        self._note_letter(offset)
        return True

    def _note_letter(self, offset: int) -> None:
        self._note_outcome(offset, Outcome.DEAD_LETTER)
        self.unreadable.add(offset)

    def _is_rejected(self, key: bytes, asked: Queued) -> bool:
        """Return whether a record is told as rejected because too many waited."""
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
        """Return whether a record that was not rejected should have been."""
        if self.queues.accepted(key, asked):
            return True
        if key not in self._open:
            return False
        row = decode_row(row_of(self.rows[key]))
        return waiting_in(row) >= places_for(asked.command)

    def _learns(self, key: bytes, offset: int, command: Command) -> bool:
        """Return whether a record is the first of its id that can be judged.

        What became of it may tell that there was no row before; after an erasure there is none.
        """
        outcome = self._kept_outcome(offset)
        if command is None:
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
        """Settle the attempt that a record has just opened, if there is a verdict."""
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
        self._note_outcome(offset, UNJUDGED)

    def _keep(self, key: bytes, row: UserRow | None, offset: int) -> None:
        if row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = kept(offset, encode_row(row))
        if row is not None and is_open(row):
            self._open.add(key)
        else:
            self._open.discard(key)

    # -- what comes of it

    def _note_outcome(self, offset: int, outcome: int) -> None:
        self.outcomes[offset - self.span.start] = outcome

    def _note_decisions(self, offset: int) -> None:
        decisions = self._decisions
        for decided in decisions.outcomes:
            self._note_outcome(decided.offset, decided.outcome)
            if decided.outcome.is_terminal:
                self._tell(decided)
        self._claiming.extend((claim, offset) for claim in decisions.claims)
        decisions.outcomes.clear()
        decisions.claims.clear()

    def _tell(self, decided: Decided) -> None:
        partition = self.span.partition
        value = encode_outcome(token(partition, decided.offset), decided)
        self.told.add((partition, decided.id.encode(), value), partition, decided.offset)

    def _note_claims(self) -> None:
        if self._keys_of_0_8:
            self._claiming = [
                (each, offset) for claim, offset in self._claiming for each in self._as_sent(claim)
            ]
        keys = [claim.email_key for claim, _ in self._claiming]
        homes = partitions_of(keys, self.cutting.partitions)
        for (claim, offset), home in zip(self._claiming, homes, strict=True):
            sent = self.claims if claim.kind == "claim" else self.releases
            said = claim_said(*claim)
            gone = home in self.claims_begun_late
            (sent.perhaps if gone else sent.certain).add(said, self.span.partition, offset)
        self._claiming.clear()

    def _email_key(self, email: str) -> bytes:
        key, earlier = self.email_keys.key(email), self.email_keys.key_of_0_8(email)
        if earlier is not None:
            self._keys_of_0_8[key] = earlier
        return key

    def _as_sent(self, claim: Claiming) -> Sequence[Claiming]:
        """Return a claim under the key that it was sent with, of this version and of 0.8.

        This version releases an address under both.
        """
        earlier = self._keys_of_0_8.get(claim.email_key)
        if earlier is None:
            return (claim,)
        found = self.found.claims if claim.kind == "claim" else self.found.releases
        both = (claim, claim._replace(email_key=earlier))
        return [each for each in both if found.has(claim_said(*each))] or (claim,)
