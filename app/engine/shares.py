"""The share of each partition in a cycle: its records, and the records to write."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from faust.types import TP

from app.domain.consumed_records import ConsumedRecord
from app.engine.batches import Slice
from app.engine.marker import MARKER_KEY, Marker
from app.engine.partitions import Changes, Key, OwnedPartition
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.fetching import Taken
from app.kafka.transactions import Sendings, to_write


class Sent(NamedTuple):
    """A record that this worker has sent, as readers will see it."""

    offset: int
    #: 0 if the producer sets it. No decision depends on it.
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class Share:
    """The part of one partition in a cycle: records by topic, and their results."""

    owned: OwnedPartition
    changes: Changes = field(default_factory=Changes)
    #: How many records of each topic are applied; 0 if only control records came.
    counts: dict[str, int] = field(default_factory=dict)
    #: The first offset of each topic.
    begins_at: dict[str, int] = field(default_factory=dict)
    #: Whether the store has the results.
    is_applied: bool = False
    #: Whether it has records that this cycle has sent itself, so that they were not read.
    has_sent: bool = False
    #: The records that no agent has got yet.
    undecided: dict[str, Sequence[ConsumedRecord]] = field(default_factory=dict)
    #: What is applied after the cycle.
    marker: Marker = field(init=False)

    def __post_init__(self) -> None:
        self.marker = self.owned.marker

    @property
    def most_records(self) -> int:
        """The largest number of records of one topic; at least 1."""
        return max([1, *self.counts.values()])

    @property
    def is_written(self) -> bool:
        """Whether there is anything to write. Control records alone are not written."""
        return any(self.counts.values()) or not self.counts

    def add(self, topic: str, taken: Taken) -> None:
        """Add records that were read."""
        self._add(topic, taken.records)
        self.marker = self.marker.after(topic, taken.next, taken.epoch)

    def add_sent(self, topic: str, sent: Sequence[Sent]) -> None:
        """Add the next records, which this cycle has sent itself."""
        self._add(topic, sent)
        self.has_sent = True
        self.marker = self.marker.ahead(topic, sent[-1].offset + 1)

    def _add(self, topic: str, records: Sequence[ConsumedRecord]) -> None:
        self.counts[topic] = self.counts.get(topic, 0) + len(records)
        if records:
            self.undecided[topic] = [*self.undecided.get(topic, ()), *records]
            self.begins_at.setdefault(topic, records[0].offset)

    def sendings(self) -> Iterator[tuple[TP, list[ToWrite]]]:
        """Yield the records to send, and their partitions. The marker is last in the changelog."""
        rows = self.changes.rows
        rows.pop(MARKER_KEY, None)
        rows[MARKER_KEY] = self.marker.encode()
        yield self.owned.changelog, [(None, key, row, NO_HEADERS) for key, row in rows.items()]
        for (topic, number), records in self.changes.outgoing.items():
            if records:
                yield TP(topic, number), records


class Shares:
    """The shares of a cycle."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Share] = {}

    def __iter__(self) -> Iterator[Share]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, owned: OwnedPartition) -> Share:
        """Return the share of a partition; make one if there is none."""
        share = self._by_key.get(owned.key)
        if share is None:
            share = self._by_key[owned.key] = Share(owned)
        return share

    def next_of(self, owned: OwnedPartition, topic: str) -> int:
        """Return the next offset of a topic after the cycle, as far as it goes now."""
        share = self._by_key.get(owned.key)
        return (owned if share is None else share).marker.next.get(topic, 0)

    @property
    def written(self) -> Sequence[Share]:
        """The shares that a transaction writes."""
        return [share for share in self if share.is_written]

    def undecided(self, topic: str) -> list[Slice]:
        """Take the records of a topic that no agent has got yet."""
        return [
            Slice(share.owned.number, share.undecided.pop(topic), share.changes)
            for share in self
            if topic in share.undecided
        ]

    # -- what is sent first

    def noted(self) -> Sendings:
        """Return the records whose offsets other records of the transaction contain."""
        noted: dict[TP, list[ToWrite]] = {}
        for share in self:
            for record, _ in share.changes.noted:
                noted.setdefault(TP(record.topic, record.partition), []).append(to_write(record))
        return noted

    def note(self, spans: Mapping[TP, range]) -> None:
        """Pass on the offsets of these records. That may add to the changes."""
        offsets = {tp: iter(span) for tp, span in spans.items()}
        for share in self:
            for record, note in share.changes.noted:
                note(next(offsets[TP(record.topic, record.partition)]))

    def take_ahead(self, is_next: Callable[[TP], bool]) -> Sendings:
        """Take out the records that can be applied as soon as they are sent."""
        places = {place for share in self for place in share.changes.outgoing}
        ahead: dict[TP, list[ToWrite]] = {tp: [] for place in places if is_next(tp := TP(*place))}
        for share in self:
            for tp in ahead.keys() & share.changes.outgoing.keys():
                ahead[tp] += share.changes.outgoing.pop(tp)
        return {tp: records for tp, records in ahead.items() if records}

    def likely(self) -> Iterator[TP]:
        """Yield the partitions that the transaction will also write, as far as it is known."""
        for share in self.written:
            yield share.owned.changelog
            yield from share.changes.likely

    def add_sent(self, owned: OwnedPartition, tp: TP, span: range, sent: Sequence[ToWrite]) -> bool:
        """Add records that were sent to a source partition, unless others come before them."""
        if span.start != self.next_of(owned, tp.topic) or len(span) != len(sent):
            return False
        self.of(owned).add_sent(
            tp.topic,
            [
                Sent(offset, at or 0, key, value, headers)
                for offset, (at, key, value, headers) in zip(span, sent, strict=True)
            ],
        )
        return True

    # -- the rest

    def sendings(self) -> dict[TP, list[ToWrite]]:
        """Return the records that are not sent yet."""
        sendings: dict[TP, list[ToWrite]] = {}
        for share in self.written:
            for tp, records in share.sendings():
                sendings.setdefault(tp, []).extend(records)
        return sendings

    def offsets(self) -> Mapping[TP, int]:
        """Return the next offset of every source of the partitions that are written."""
        return {tp: at for share in self.written for tp, at in share.owned.offsets(share.marker)}
