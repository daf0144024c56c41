"""The outcomes in one partition of ``registration-outcomes``, pure."""

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from app.domain.consumed_records import ConsumedRecord
from app.domain.outcomes import Outcome
from app.ops.verify.multisets import Multiset
from app.ops.verify.places import NOWHERE, Span, named


@dataclass(slots=True)
class OutcomesFold:
    """One partition of the outcomes: they stand in the partition of the id that they speak of.

    Takes eight bytes for each record that is decided, and eight more if any was rejected because
    too many waited.
    """

    partition: int
    partitions: int
    #: The records that are decided.
    asking: Span
    #: Whether the beginning of the outcomes is there.
    is_whole: bool = True
    #: Outcomes of the records of the same partition, each about the record's offset.
    found: Multiset = field(default_factory=Multiset)
    #: Outcomes of records that were moved here, by the partition where they stood.
    moved: defaultdict[int, Multiset] = field(default_factory=lambda: defaultdict(Multiset))
    records: int = 0

    #: Of each record that is decided: behind which offset its first outcome stands, 0 if none does.
    _places: "array[int]" = field(init=False)
    #: What is told as rejected because too many waited: hashes of record and key, and of the key.
    _rejected: set[int] = field(default_factory=set)
    _watched: set[int] = field(default_factory=set)
    _asked_by: "array[int] | None" = None

    def __post_init__(self) -> None:
        self._places = array("Q", bytes(8 * max(self.asking.until - self.asking.start, 0)))

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Fold records, which follow those before."""
        self.records += len(records)
        for record in records:
            word, position, reason = _told(record.value)
            of = named(position, self.partitions)
            said = (self.partition, record.key, record.value)
            if of is not None and word == Outcome.MOVED.word:
                self.moved[of.partition].add(said, self.partition, record.offset, of.offset)
            else:
                here = of is not None and of.partition == self.partition
                about = of.offset if of is not None and here else NOWHERE
                self.found.add(said, self.partition, record.offset, about)
                if about in self.asking:
                    self._note(about, record, reason)

    def _note(self, about: int, record: ConsumedRecord, reason: str | None) -> None:
        index = about - self.asking.start
        self._places[index] = self._places[index] or record.offset + 1
        if reason == Outcome.TOO_MANY_PENDING.reason:
            self._rejected.add(hash((about, record.key)))
            self._watched.add(hash(record.key))

    def place(self, offset: int) -> int | None:
        """Return where the outcome of a record stands; None if it is not told, or not any more."""
        return self._places[offset - self.asking.start] - 1 if self._tells(offset) else None

    def _tells(self, offset: int) -> bool:
        return bool(self._places[offset - self.asking.start])

    def rejects(self, key: bytes, offset: int) -> bool:
        """Return whether a record of an id is told as rejected because too many waited."""
        return hash((offset, key)) in self._rejected

    def watches(self, key: bytes) -> bool:
        """Return whether any record of an id is told so."""
        return hash(key) in self._watched

    def asked_by(self, offset: int) -> int:
        """Return a place of an outcome before which a record was asked for certain.

        Records are asked in order: it was, before its own outcome or that of any later one.
        """
        if self._asked_by is None:
            # What is not told is told last: 0 - 1 is the largest number that there is.
            places = np.array(self._places, np.uint64) - np.uint64(1)
            earliest = np.minimum.accumulate(places[::-1])[::-1]
            self._asked_by = array("Q", earliest.tobytes())
        return self._asked_by[offset - self.asking.start]


def _told(value: bytes | None) -> tuple[str | None, str | None, str | None]:
    """Return the outcome that is told, of the record at which position, and the reason for it."""
    try:
        members = orjson.loads(value or b"")
        word, position, reason = members["outcome"], members["position"], members.get("reason")
    except (ValueError, LookupError, TypeError):
        return None, None, None
    return word, position if isinstance(position, str) else None, reason
