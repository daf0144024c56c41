"""The fold g, pure: holders and verdicts that follow from the claims of a partition."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from app.domain.consumed_records import ConsumedRecord, as_they_were, require_readable
from app.domain.email_claims import Claim, decode_holder, encode_holder, read_claim, settle
from app.domain.errors import UnreadableRecordError
from app.domain.keys import partitions_of
from app.ops.verify.multisets import Multiset
from app.ops.verify.places import NOWHERE, Offsets, Span, named
from app.ops.verify.splits import Cutting, Handed
from app.ops.verify.tables import kept, row_of


def claim_said(
    kind: Literal["claim", "release"], email_key: bytes, user_id: str, attempt: str
) -> tuple[object, ...]:
    """Return the content of a claim or release, for comparison."""
    return kind, email_key, user_id, attempt


def verdict_said(
    partition: int, key: bytes | None, email_key: str, attempt: str, word: str | None, at: object
) -> tuple[object, ...]:
    """Return the content and place of a verdict, for comparison.

    Without a word it is not judged.
    """
    return partition, key, email_key, attempt, word, at


@dataclass(slots=True)
class FoundClaims:
    """The claims and releases in ``email-claims`` of the ids of one partition.

    Each is about the offset of its attempt; `NOWHERE` if that is not a record of the id's
    partition.
    """

    claims: Multiset = field(default_factory=Multiset)
    releases: Multiset = field(default_factory=Multiset)


@dataclass(slots=True)
class EmailsFold:
    """One partition of ``email-claims``, settled as far as it is applied."""

    span: Span
    #: By partition of the ids: the claims that are found here, and the verdicts that they need.
    found: Sequence[FoundClaims]
    verdicts: Sequence[Multiset]
    cutting: Cutting
    #: The rows at the beginning, if the partition was split off another one.
    handed: Handed = field(default_factory=Handed)

    #: By email key: the row, behind the offset of the claim that made it.
    rows: dict[bytes, bytes] = field(default_factory=dict)
    unreadable: Offsets = field(default_factory=Offsets)
    records: int = 0
    not_applied: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the log has its beginning. Without it, the first holders are unknown."""
        return self.span.start == 0 and self.handed.is_whole

    @property
    def is_quiet(self) -> bool:
        """Whether everything that was found is applied."""
        return self.not_applied == 0

    def __post_init__(self) -> None:
        self.rows.update(self.handed.rows)

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Fold the next records."""
        self.records += len(records)
        self.not_applied += sum(record.offset >= self.span.until for record in records)
        for piece in self.cutting.pieces_of(records, self._cut):
            self._add(piece)

    def finish(self) -> None:
        """Hand on the rows that were split off behind the last record."""
        while not self.cutting.is_last:
            self._cut()

    def _cut(self) -> None:
        self.cutting.cut(self.rows, set(), is_whole=self.is_whole)

    def _add(self, records: Sequence[ConsumedRecord]) -> None:
        partitions = self.cutting.partitions
        claims = [
            (record, claim) for record in as_they_were(records) if (claim := self._read(record))
        ]
        targets = partitions_of([claim["id"].encode() for _, claim in claims], partitions)
        places = partitions_of([record.key or b"" for record, _ in claims], partitions)
        for (record, claim), target, place in zip(claims, targets, places, strict=True):
            self._note(record, claim, target, astray=place != self.span.partition)
            if record.offset in self.span:
                self._settle(record, claim, target)

    def _read(self, record: ConsumedRecord) -> Claim | None:
        try:
            require_readable((record,))
            return read_claim(record.value or b"")
        except (ValidationError, UnreadableRecordError):
            if record.offset in self.span:
                self.unreadable.add(record.offset)
            return None

    def _note(self, record: ConsumedRecord, claim: Claim, target: int, astray: bool) -> None:
        kind, attempt = claim["type"], named(claim["attempt"], len(self.found))
        said = claim_said(kind, record.key or b"", claim["id"], claim["attempt"])
        about = attempt.offset if attempt is not None and attempt.partition == target else NOWHERE
        found = self.found[target].claims if kind == "claim" else self.found[target].releases
        # A claim in a wrong partition is always extra: workers never send it there.
        found.add((*said, "astray") if astray else said, self.span.partition, record.offset, about)

    def _settle(self, record: ConsumedRecord, claim: Claim, target: int) -> None:
        key, at = record.key or b"", (self.span.partition, record.offset)
        stored = self.rows.get(key)
        holder = None if stored is None else decode_holder(row_of(stored))
        after, word = settle(holder, claim)
        if after is None:
            self.rows.pop(key, None)
        elif after != holder:
            self.rows[key] = kept(record.offset, encode_holder(after))
        if word is not None:
            said = verdict_said(
                target,
                claim["id"].encode(),
                key.decode(errors="replace"),
                claim["attempt"],
                word if self.is_whole else None,
                at,
            )
            self.verdicts[target].add(said, *at)
