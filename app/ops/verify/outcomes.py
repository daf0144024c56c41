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
    """One partition of the outcomes. An outcome is in the partition of its id.

    It takes eight bytes for each decided record, and eight more if any was rejected because too
    many waited.
    """

    partition: int
    partitions: int
    #: The records that are decided.
    asking: Span
    #: Whether the outcomes have their beginning.
    is_whole: bool = True
    #: Outcomes of the records of the same partition, each about the record's offset.
    found: Multiset = field(default_factory=Multiset)
    #: Outcomes of records that were moved here, by the partition of the original.
    moved: defaultdict[int, Multiset] = field(default_factory=lambda: defaultdict(Multiset))
    records: int = 0

    #: For each decided record: the offset behind its first outcome; 0 if there is none.
    _places: "array[int]" = field(init=False)
    #: Rejections because too many waited: hashes of record and key, and of the key.
    _rejected: set[int] = field(default_factory=set)
    _watched: set[int] = field(default_factory=set)
    _asked_by: "array[int] | None" = None

    def __post_init__(self) -> None:
        self._places = array("Q", bytes(8 * max(self.asking.until - self.asking.start, 0)))

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Fold the next records."""
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
        """Return the offset of a record's outcome; None if it is not there."""
        return self._places[offset - self.asking.start] - 1 if self._tells(offset) else None

    def _tells(self, offset: int) -> bool:
        return bool(self._places[offset - self.asking.start])

    def rejects(self, key: bytes, offset: int) -> bool:
        """Return whether a record was rejected because too many records of its id waited."""
        return hash((offset, key)) in self._rejected

    def watches(self, key: bytes) -> bool:
        """Return whether any record of an id was rejected so."""
        return hash(key) in self._watched

    def asked_by(self, offset: int) -> int:
        """Return an offset of the outcomes before which a record was certainly decided first.

        Records are decided in order. So it is before its own outcome and before those of all later
        records.
        """
        if self._asked_by is None:
            # A missing outcome counts as the last one: 0 - 1 is the largest number.
            places = np.array(self._places, np.uint64) - np.uint64(1)
            earliest = np.minimum.accumulate(places[::-1])[::-1]
            self._asked_by = array("Q", earliest.tobytes())
        return self._asked_by[offset - self.asking.start]


def _told(value: bytes | None) -> tuple[str | None, str | None, str | None]:
    """Return the outcome, the position of its record, and the reason in a value."""
    try:
        members = orjson.loads(value or b"")
        word, position, reason = members["outcome"], members["position"], members.get("reason")
    except (ValueError, LookupError, TypeError):
        return None, None, None
    return word, position if isinstance(position, str) else None, reason
