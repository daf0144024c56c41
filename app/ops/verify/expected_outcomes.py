"""The outcomes that follow from the records of a partition."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from app.domain.outcomes import Decided, Outcome
from app.domain.positions import token
from app.domain.records import encode_outcome
from app.engine.marker import PAGE_RECORDS
from app.ops.verify.multisets import Multiset
from app.ops.verify.places import Offsets, Span
from app.ops.verify.tables import UNJUDGED


@dataclass(slots=True)
class ExpectedOutcomes:
    """The outcome that each record of a partition must have."""

    span: Span
    #: The terminal outcomes, as ``registration-outcomes`` must have them.
    told: Multiset = field(default_factory=Multiset)
    unreadable: Offsets = field(default_factory=Offsets)
    moved: Offsets = field(default_factory=Offsets)
    #: Records that were moved to partitions whose beginning is gone.
    moved_perhaps: Offsets = field(default_factory=Offsets)
    #: One byte for each offset that is applied.
    _codes: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self._codes = bytearray(max(self.span.until - self.span.start, 0))

    def note(self, offset: int, outcome: int) -> None:
        """Note the outcome of a record."""
        self._codes[offset - self.span.start] = outcome

    def note_letter(self, offset: int) -> None:
        """Note that a record became a dead letter."""
        self.note(offset, Outcome.DEAD_LETTER)
        self.unreadable.add(offset)

    def note_move(self, offset: int, *, is_certain: bool) -> None:
        """Note that a record was moved. Unless ``is_certain``, its copy may be gone."""
        self.note(offset, Outcome.MOVED)
        (self.moved if is_certain else self.moved_perhaps).add(offset)

    def note_decided(self, decided: Decided) -> None:
        """Note an outcome. A terminal one must also be in ``registration-outcomes``."""
        self.note(decided.offset, decided.outcome)
        if decided.outcome.is_terminal:
            partition = self.span.partition
            value = encode_outcome(token(partition, decided.offset), decided)
            self.told.add((partition, decided.id.encode(), value), partition, decided.offset)

    def of(self, offset: int) -> int:
        """Return the outcome of a record, 0 if there is none or it is not applied."""
        return self._codes[offset - self.span.start] if offset in self.span else 0

    @property
    def not_judged(self) -> int:
        """How many records cannot be judged, because the records before them are gone."""
        return self._codes.count(UNJUDGED)

    def counts(self) -> Counter[int]:
        """Return how often there is each outcome."""
        counted = np.bincount(np.frombuffer(self._codes, np.uint8), minlength=256).tolist()
        return Counter({code: count for code, count in enumerate(counted) if code and count})

    def page(self, number: int) -> bytes:
        """Return the outcomes of one page; 0 stands for a record that is not applied or gone."""
        start = number * PAGE_RECORDS - self.span.start
        before = bytes(max(-start, 0))
        page = before + self._codes[max(start, 0) : max(start + PAGE_RECORDS, 0)]
        return bytes(page[:PAGE_RECORDS].ljust(PAGE_RECORDS, b"\0"))
