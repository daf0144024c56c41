"""Copies of records that were moved here from other partitions."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.domain.consumed_records import ConsumedRecord
from app.domain.outcomes import Decided, Outcome
from app.domain.parsing import MOVED_FROM_HEADER, id_of
from app.domain.positions import token
from app.domain.records import encode_outcome
from app.ops.verify.multisets import Multiset
from app.ops.verify.places import named


@dataclass(slots=True)
class Copies:
    """The copies in one partition."""

    partition: int
    partitions: int
    #: By the partition of the original. Each entry is about the offset there, and says the outcome
    #: that must tell of the move.
    by_origin: defaultdict[int, Multiset] = field(default_factory=lambda: defaultdict(Multiset))
    #: Copies whose header names no position of this registry.
    foreign: int = 0

    def note(self, records: Sequence[ConsumedRecord]) -> None:
        """Note those of some records that are copies."""
        for record in records:
            if record.headers:
                self._note(record)

    def _note(self, record: ConsumedRecord) -> None:
        origins = [value for name, value in record.headers if name == MOVED_FROM_HEADER]
        if not origins:
            return
        origin = named(origins[0], self.partitions)
        if origin is None:
            self.foreign += 1
            return
        user_id = id_of(record) or ""
        moved = Decided(origin.offset, user_id, Outcome.MOVED)
        said = encode_outcome(origin.token(), moved, token(self.partition, record.offset))
        self.by_origin[origin.partition].add(
            (self.partition, user_id.encode(), said), self.partition, record.offset, origin.offset
        )
