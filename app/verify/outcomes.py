"""The outcomes that one partition of ``registration-outcomes`` tells, pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from app.arrivals import Arrival
from app.outcomes import Outcome
from app.verify.multisets import Multiset
from app.verify.places import NOWHERE, named


@dataclass(slots=True)
class OutcomesFold:
    """One partition of the outcomes: they stand in the partition of the id that they speak of."""

    partition: int
    partitions: int
    #: Outcomes of the records of the same partition, each about the record's offset.
    found: Multiset = field(default_factory=Multiset)
    #: Outcomes of records that were moved here, by the partition where they stood.
    moved: defaultdict[int, Multiset] = field(default_factory=lambda: defaultdict(Multiset))
    records: int = 0

    def add(self, records: Sequence[Arrival]) -> None:
        """Fold records, which follow those before."""
        self.records += len(records)
        for record in records:
            word, position = _told(record.value)
            of = named(position, self.partitions)
            said = (self.partition, record.key, record.value)
            if of is not None and word == Outcome.MOVED.word:
                self.moved[of.partition].add(said, self.partition, record.offset, of.offset)
            else:
                here = of is not None and of.partition == self.partition
                about = of.offset if of is not None and here else NOWHERE
                self.found.add(said, self.partition, record.offset, about)


def _told(value: bytes | None) -> tuple[str | None, str | None]:
    """Return the outcome that is told, and of the record at which position."""
    try:
        members = orjson.loads(value or b"")
        word, position = members["outcome"], members["position"]
    except (ValueError, LookupError, TypeError):
        return None, None
    return word, position if isinstance(position, str) else None
