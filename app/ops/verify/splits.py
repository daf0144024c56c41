"""Splits of partitions, pure: the number of partitions when a record was decided."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from app.domain.consumed_records import ConsumedRecord
from app.domain.keys import partitions_of
from app.kafka.partitioning import Partitioning
from app.ops.verify.places import NOWHERE
from app.ops.verify.tables import kept, row_of

#: The end of a piece that has no end.
NO_END = 2**63


@dataclass(frozen=True, slots=True)
class Piece:
    """The records of a partition up to an offset, and the number of partitions at that time."""

    until: int
    partitions: int


def pieces(partitioning: Partitioning, topic: str, partition: int) -> list[Piece]:
    """Return the pieces of a partition, in order. The last one has no end."""
    ended = [
        Piece(split.ends[topic][partition], split.partitions)
        for split in partitioning.splits
        if partition < split.partitions
    ]
    return [*ended, Piece(NO_END, partitioning.partitions)]


def parent(partitioning: Partitioning, partition: int) -> int | None:
    """Return the partition that one was split from; None for an original partition."""
    for split in partitioning.splits:
        if partition < split.partitions:
            return None
        following = _following(partitioning, split.partitions)
        if partition < following:
            return partition % split.partitions
    return None


def _following(partitioning: Partitioning, partitions: int) -> int:
    counts = [*(split.partitions for split in partitioning.splits), partitioning.partitions]
    return counts[counts.index(partitions) + 1]


@dataclass(slots=True)
class Handed:
    """The beginning of a new partition: its rows, and the known keys if not all are known."""

    rows: dict[bytes, bytes] = field(default_factory=dict)
    known: set[bytes] = field(default_factory=set)
    #: Whether every row could be judged.
    is_whole: bool = True


class Cutting:
    """Walks through the pieces of one partition, and takes out the rows that are handed on."""

    def __init__(self, partition: int, pieces: Sequence[Piece]) -> None:
        self._partition = partition
        self._pieces = list(pieces)
        #: The rows that were handed on, by their new partition.
        self.handed: dict[int, Handed] = {}

    @property
    def partitions(self) -> int:
        """The number of partitions in the present piece."""
        return self._pieces[0].partitions

    def pieces_of(
        self, records: Sequence[ConsumedRecord], cut: Callable[[], None]
    ) -> Iterator[Sequence[ConsumedRecord]]:
        """Yield the next records by piece; ``cut`` ends each piece."""
        while records:
            count = bisect_left(records, self._pieces[0].until, key=lambda record: record.offset)
            if count:
                yield records[:count]
                records = records[count:]
            else:
                cut()

    @property
    def is_last(self) -> bool:
        """Whether this is the last piece."""
        return len(self._pieces) == 1

    def cut(self, rows: dict[bytes, bytes], known: set[bytes], *, is_whole: bool) -> None:
        """End a piece: rows and keys of other partitions are taken out."""
        before = self._pieces.pop(0).partitions
        for target in range(self._partition + before, self.partitions, before):
            self.handed[target] = Handed(is_whole=is_whole)
        for key, target in self._leaving(list(rows)):
            # No record of that partition has made the row.
            self.handed[target].rows[key] = kept(NOWHERE, row_of(rows.pop(key)))
        for key, target in self._leaving(list(known)):
            known.remove(key)
            self.handed[target].known.add(key)

    def _leaving(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
        targets = partitions_of(keys, self.partitions)
        return (both for both in zip(keys, targets, strict=True) if both[1] != self._partition)
