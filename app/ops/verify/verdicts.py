"""The verdicts of one partition, pure."""

from array import array
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import ValidationError

from app.domain.consumed_records import ConsumedRecord, as_they_were, require_readable
from app.domain.email_claims import Verdict, read_verdict
from app.domain.errors import UnreadableRecordError
from app.ops.verify.emails import claim_said, verdict_said
from app.ops.verify.multisets import Multiset
from app.ops.verify.places import Offsets, Span, named

_WORDS: tuple[None, Literal["granted"], Literal["taken"]] = (None, "granted", "taken")
_GRANTED = _WORDS.index("granted")


class Verdicts:
    """One partition of ``email-decisions``: the verdicts on attempts of one partition of users.

    It takes a byte and two hashes for each record of ``user-registrations``.
    """

    def __init__(
        self,
        span: Span,
        asking: Span,
        claims: Sequence[Span],
        quiet: Sequence[bool],
        whole: Sequence[bool],
    ) -> None:
        """Begin with none; ``claims`` says of each partition of claims which are settled.

        Those that are ``quiet`` have no others; of those that are ``whole`` is known who wins.
        """
        self.span = span
        #: The records whose attempts may have verdicts.
        self.asking = asking
        self._claims = claims
        self._quiet = quiet
        self._whole = whole
        count = max(asking.until - asking.start, 0)
        self._words = bytearray(count)
        self._keys = array("q", bytes(8 * count))
        #: Hashes of the releases that follow verdicts for which no attempt waits.
        self._releases = array("q", bytes(8 * count))
        #: The verdicts that can be judged.
        self.found = Multiset()
        #: Releases after verdicts for which no attempt can have waited.
        self.strays = Multiset()
        self.unreadable = Offsets()
        self.records = 0
        self.not_applied = 0

    @property
    def is_whole(self) -> bool:
        """Whether the log has its beginning. Without it, verdicts may be gone."""
        return self.span.start == 0

    @property
    def is_quiet(self) -> bool:
        """Whether everything that was found is applied."""
        return self.not_applied == 0

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Add the next records."""
        for record in as_they_were(records):
            self.records += 1
            self.not_applied += record.offset >= self.span.until
            try:
                require_readable((record,))
                verdict = read_verdict(record.value or b"")
            except (ValidationError, UnreadableRecordError):
                if record.offset in self.span:
                    self.unreadable.add(record.offset)
                continue
            self._note(record, verdict)
            if record.offset in self.span:
                self._apply(record, verdict)

    def _note(self, record: ConsumedRecord, verdict: Verdict) -> None:
        at = named(verdict["at"], len(self._claims))
        word: str | None = verdict["verdict"]
        if at is not None:
            claims = self._claims[at.partition]
            settled = at.offset in claims or (
                at.offset >= claims.until and self._quiet[at.partition]
            )
            if not settled:
                return  # Its claim is gone, or was not settled yet when we looked.
            if not self._whole[at.partition]:
                word = None
        self.found.add(
            verdict_said(
                self.span.partition,
                record.key,
                verdict["email_key"],
                verdict["attempt"],
                word,
                None if at is None else (at.partition, at.offset),
            ),
            self.span.partition,
            record.offset,
        )

    def _apply(self, record: ConsumedRecord, verdict: Verdict) -> None:
        """Keep a verdict for its attempt."""
        key, asking = record.key or b"", self.asking
        attempt = named(verdict["attempt"], len(self._claims))
        here = attempt is not None and attempt.partition == asking.partition
        if here and attempt is not None and attempt.offset < asking.start:
            return  # The record that asked is unknown.
        granted = verdict["verdict"] == "granted"
        release = hash(
            claim_said(
                "release",
                verdict["email_key"].encode(),
                key.decode(errors="replace"),
                verdict["attempt"],
            )
        )
        if here and attempt is not None and attempt.offset in asking:
            index = attempt.offset - asking.start
            if not self._words[index]:
                self._words[index] = _WORDS.index(verdict["verdict"])
                self._keys[index] = hash(key)
                self._releases[index] = release
                return
        if granted:
            self.strays.add_hash(release, self.span.partition, record.offset)

    def take(self, offset: int, key: bytes) -> Literal["granted", "taken"] | None:
        """Return the verdict on the attempt of an id at an offset, once; None if there is none."""
        index = offset - self.asking.start
        word = _WORDS[self._words[index]]
        if word is None or self._keys[index] != hash(key):
            return None
        self._words[index] = 0
        return word

    def left(self) -> Iterator[tuple[int, int]]:
        """Yield attempts that were granted without a record: offset, hash of the release."""
        for index in np.flatnonzero(np.frombuffer(self._words, np.uint8) == _GRANTED).tolist():
            yield self.asking.start + index, self._releases[index]
