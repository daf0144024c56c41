"""Finds whether the id of a dead letter has a later record. A replay must not overtake it."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from app.dead_letters.letters import Letter
from app.domain.consumed_records import ConsumedRecord
from app.domain.errors import InvalidPositionError
from app.domain.keys import encode_key, partition_of
from app.domain.parsing import id_of
from app.domain.positions import Position
from app.kafka.partition_reader import Extent, Reader
from app.kafka.progress import bar
from app.kafka.topics import TopicSpec

#: The header of a replayed record that holds the position of its letter.
REPLAY_OF_HEADER = "replay-of"


def target_partition_of(letter: Letter, partitions: int) -> int:
    """Return the partition of a letter's id, or of its original if it has no id."""
    if letter.id is None:
        return letter.position.partition
    return partition_of(encode_key(letter.id), partitions)


class _Trace(NamedTuple):
    """A record of an id: where it is, and where it (or the letter that it replays) came in."""

    offset: int
    origin: Position


class Traces:
    """The records of some ids that were noted so far, by partition."""

    def __init__(self, ids: Mapping[int, Collection[str]], letters: Collection[Position]) -> None:
        self._ids = ids
        #: Records of these letters were not applied. If one was replayed, its copy counts.
        self._letters = letters
        self._of_id: defaultdict[str, list[_Trace]] = defaultdict(list)

    def note(self, partition: int, records: Iterable[ConsumedRecord]) -> None:
        """Note the records of a partition that belong to the ids."""
        ids = self._ids.get(partition, ())
        for record in records:
            user_id = id_of(record) or ""
            if user_id in ids and Position(partition, record.offset) not in self._letters:
                self._of_id[user_id].append(_Trace(record.offset, _origin(partition, record)))

    def later_than(self, letter: Letter, below: int | None = None) -> Position | None:
        """Return the origin of a record of the letter's id that is later, or None.

        With ``below``, only records below this offset of their partition count. There is no order
        between partitions: a record that came in by another partition counts as later.
        """
        traces = [] if letter.id is None else self._of_id.get(letter.id, [])
        for offset, origin in traces:
            if below is not None and offset >= below:
                continue
            if origin.partition != letter.position.partition or origin > letter.position:
                return origin
        return None


def _origin(partition: int, record: ConsumedRecord) -> Position:
    named = [value for name, value in record.headers if name == REPLAY_OF_HEADER]
    try:
        return Position.parse(named[-1].decode())
    except (IndexError, UnicodeDecodeError, InvalidPositionError):
        return Position(partition, record.offset)


class LaterRecords:
    """Looks for later records of letters in ``user-registrations``, each record once."""

    def __init__(
        self,
        committed: Reader,
        everything: Reader,
        topic: TopicSpec,
        letters: Sequence[Letter],
        known: Collection[Position],
    ) -> None:
        """Look for records later than the letters. ``known`` has the positions of all letters."""
        self._committed = committed
        self._everything = everything
        self._topic = topic
        self._ids: defaultdict[int, set[str]] = defaultdict(set)
        #: By partition: where to begin, where it began, and how far it has read.
        self._from: dict[int, int] = {}
        self._begun: dict[int, int] = {}
        self._read: dict[int, int] = {}
        self._known = known
        for letter in letters:
            self._want(letter)
        self._traces = Traces(self._ids, known)

    def _want(self, letter: Letter) -> None:
        if letter.id is None:
            return
        target = target_partition_of(letter, self._topic.partitions)
        self._ids[target].add(letter.id)
        # An offset of another partition cannot be compared.
        start = letter.position.offset + 1 if target == letter.position.partition else 0
        self._from[target] = min(self._from.get(target, start), start)

    async def catch_up(self) -> None:
        """Read the committed records that were not read yet."""
        extents = [
            self._rest(extent)
            for extent in await self._committed.extents(self._topic)
            if extent.partition in self._from
        ]
        with bar(sum(map(len, extents))) as self._committed.advance:
            for extent in extents:
                async for records in self._committed.read(extent):
                    self._traces.note(extent.partition, records)
                self._read[extent.partition] = max(extent.start, extent.end)

    def _rest(self, extent: Extent) -> Extent:
        number = extent.partition
        begun = self._begun.setdefault(number, max(extent.start, self._from[number]))
        start = self._read.get(number, begun)
        return Extent(extent.topic, number, start, extent.end)

    def why_not(self, letter: Letter) -> str | None:
        """Return why a letter must not be replayed, or None. Only records that were read count."""
        if letter.id is None:
            return None
        target = target_partition_of(letter, self._topic.partitions)
        if target == letter.position.partition and letter.position.offset + 1 < self._begun[target]:
            return "records after it are gone: its id may have had a later one"
        return _reason(self._traces.later_than(letter))

    async def overtaken(self, sent: Sequence[tuple[Letter, int]]) -> Mapping[Position, str]:
        """Return which of the sent letters must not be replayed after all, and why.

        ``sent`` has the offsets of the replays, which are not committed yet. Records of other open
        transactions count, because they may be committed first.
        """
        ends: dict[int, int] = {}
        for letter, offset in sent:
            target = target_partition_of(letter, self._topic.partitions)
            if letter.id is not None:
                ends[target] = max(ends.get(target, 0), offset)
        new = Traces(self._ids, self._known)
        for target, end in ends.items():
            async for records in self._everything.read(
                Extent(self._topic.name, target, self._read[target], end)
            ):
                new.note(target, records)
        reasons = {letter.position: _reason(new.later_than(letter, at)) for letter, at in sent}
        return {position: reason for position, reason in reasons.items() if reason is not None}


def _reason(later: Position | None) -> str | None:
    return None if later is None else f"its id has a later record, at {later.token()}"
