"""Replay: sends originals of dead letters to their topic again, and marks the letters."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from app.dead_letters.later import REPLAY_OF_HEADER, LaterRecords, target_partition_of
from app.dead_letters.letters import (
    REPLAYED,
    REPLAYED_AS_HEADER,
    DeadLetters,
    Letter,
    Name,
    Original,
)
from app.dead_letters.reading import LetterTopic
from app.dead_letters.sending import ReplayProducer
from app.domain.consumed_records import UNREADABLE_HEADER, are_text, is_text
from app.domain.errors import RecordTooLargeError, UnreadableRecordError
from app.domain.parsing import MOVED_FROM_HEADER, id_of, read
from app.domain.positions import Position
from app.domain.records import Outgoing
from app.kafka.partition_reader import Reader
from app.kafka.topics import Topics

#: The limits of one transaction: letters, and bytes of originals. A larger original goes alone.
MAX_LETTERS = 100
MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of a letter: refused, replayed, or (with neither member) it would be replayed."""

    letter: Letter
    refused: str | None = None
    replayed_as: Position | None = None


@dataclass(frozen=True, slots=True)
class _Ready:
    """A letter that may be replayed, and the record to send."""

    letter: Letter
    record: Outgoing


class _OvertakenError(Exception):
    """Letters have later records after all. Nothing of their transaction is committed."""

    def __init__(self, reasons: Mapping[Position, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


class Replay:
    """Replays letters of one topic in the order in which their records came."""

    def __init__(
        self,
        topics: Topics,
        letters: LetterTopic,
        committed: Reader,
        everything: Reader,
        *,
        producer: ReplayProducer | None,
        force: bool = False,
    ) -> None:
        self._source = topics.user_registrations
        self._marks = DeadLetters(topics.user_registrations.name, topics.dead_letter.name)
        self._letters = letters
        self._committed = committed
        self._everything = everything
        #: None: report only, write nothing.
        self._producer = producer
        self._force = force
        #: None: later records are ignored (--force).
        self._later: LaterRecords | None = None

    async def run(self, chosen: Iterable[Letter]) -> AsyncIterator[ReplayResult]:
        """Replay letters, and yield what became of each."""
        ours: list[Letter] = []
        for letter in sorted(chosen, key=attrgetter("position")):
            if letter.topic == self._source.name:
                ours.append(await self._with_id(letter))
            else:
                yield ReplayResult(letter, f"only records of {self._source.name} are replayed")
        if not self._force:
            names = await self._letters.letters()
            known = {position for topic, position in names if topic == self._source.name}
            self._later = LaterRecords(self._committed, self._everything, self._source, ours, known)
        for chunk in chunks(ours):
            async for told in self._replay(chunk):
                yield told

    # -- originals

    async def _with_id(self, letter: Letter) -> Letter:
        """Return a letter with the id of its original, wherever the original is."""
        original = await self._in_source(letter) if letter.too_large else None
        return letter if original is None else replace(letter, id=id_of(original))

    async def _in_source(self, letter: Letter) -> Original | None:
        """Return the original from the topic where it came in, if it is still there."""
        partition, offset, _ = letter.position
        there = (await self._committed.extents(self._source))[partition]
        if not there.start <= offset < there.end:
            return None
        wanted = replace(there, start=offset, end=offset + 1)
        found = [each async for records in self._committed.read(wanted) for each in records]
        return Original.of(found[0]) if found else None

    async def _originals(self, letters: Sequence[Letter]) -> Mapping[Name, Original | None]:
        """Return the originals of letters that are still open."""
        now = await self._letters.letters()
        opened = [letter for letter in letters if now[letter.name].is_open]
        kept = [letter for letter in opened if not letter.too_large]
        return {
            **await self._letters.originals(kept),
            **{each.name: await self._in_source(each) for each in opened if each.too_large},
        }

    # -- what is replayed together

    async def _replay(self, letters: Sequence[Letter]) -> AsyncIterator[ReplayResult]:
        originals = await self._originals(letters)
        ready: list[_Ready] = []
        for letter in letters:
            original = originals.get(letter.name)
            if original is None:
                yield ReplayResult(letter, "its original is gone")
            elif original.is_cut:
                yield ReplayResult(letter, "its original is too large to be read")
            elif not self._force and (cause := _unreadable(original)):
                yield ReplayResult(letter, f"it still cannot be read: {cause}")
            else:
                ready.append(_Ready(letter, self._record(letter, original)))
        async for told in self._send(ready):
            yield told

    def _record(self, letter: Letter, original: Original) -> Outgoing:
        # A header whose name is not UTF-8 made this record a letter, and would do it again.
        kept = [
            header
            for header in original.headers
            if header[0] not in _NOT_KEPT and is_text(header[0])
        ]
        headers = [*kept, (REPLAY_OF_HEADER, letter.position.token().encode())]
        target = target_partition_of(letter, self._source.partitions)
        return Outgoing(self._source.name, target, original.key, original.value, None, headers)

    async def _send(self, ready: Sequence[_Ready]) -> AsyncIterator[ReplayResult]:
        """Replay letters in one transaction, except those that are overtaken before its end."""
        reasons = await self._overtaken(ready)
        while ready:
            for each in ready:
                if each.letter.position in reasons:
                    yield ReplayResult(each.letter, reasons[each.letter.position])
            ready = [each for each in ready if each.letter.position not in reasons]
            try:
                positions = await self._transact(ready)
            except _OvertakenError as error:
                # The next attempt begins behind this transaction, which is aborted.
                reasons = {**await self._overtaken(ready), **error.reasons}
                continue
            except RecordTooLargeError as error:
                async for told in self._one_by_one(ready, error):
                    yield told
                return
            for each, position in zip(ready, positions, strict=True):
                yield ReplayResult(each.letter, replayed_as=position)
            return

    async def _one_by_one(
        self, ready: Sequence[_Ready], error: RecordTooLargeError
    ) -> AsyncIterator[ReplayResult]:
        """Replay each letter in its own transaction, because one of them is too large."""
        if len(ready) == 1:
            yield ReplayResult(ready[0].letter, str(error))
            return
        for each in ready:
            async for told in self._send([each]):
                yield told

    async def _overtaken(self, ready: Sequence[_Ready]) -> Mapping[Position, str]:
        """Return which letters have later committed records, and why they must not be replayed."""
        if self._later is None:
            return {}
        await self._later.catch_up()
        reasons = {each.letter.position: self._later.why_not(each.letter) for each in ready}
        return {position: reason for position, reason in reasons.items() if reason is not None}

    async def _transact(self, ready: Sequence[_Ready]) -> Sequence[Position | None]:
        """Send replays and marks; raise `_OvertakenError` if a later record came in meanwhile."""
        producer = self._producer
        if producer is None or not ready:
            return [None] * len(ready)
        async with producer.transaction():
            offsets = await producer.send([each.record for each in ready])
            sent = [(each.letter, offset) for each, offset in zip(ready, offsets, strict=True)]
            reasons = {} if self._later is None else await self._later.overtaken(sent)
            if reasons:
                raise _OvertakenError(reasons)
            positions = [
                Position(each.record.partition, offset)
                for each, offset in zip(ready, offsets, strict=True)
            ]
            await producer.send(
                [
                    self._mark(each.letter, position)
                    for each, position in zip(ready, positions, strict=True)
                ]
            )
        return positions

    def _mark(self, letter: Letter, position: Position) -> Outgoing:
        replayed_as = (REPLAYED_AS_HEADER, position.token().encode())
        return self._marks.mark(letter.position, REPLAYED, [replayed_as])


def _unreadable(original: Original) -> str | None:
    """Return why a record cannot be read; None if it can."""
    if not are_text(original.headers):
        return UNREADABLE_HEADER
    try:
        read(original)
    except UnreadableRecordError as error:
        return error.cause
    return None


#: A replay is not a moved copy, and only the newest letter counts.
_NOT_KEPT = (MOVED_FROM_HEADER, REPLAY_OF_HEADER)


def chunks(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    """Yield letters in groups that are replayed in one transaction."""
    chunk: list[Letter] = []
    size = 0
    for letter in letters:
        size += letter.size
        if chunk and (len(chunk) == MAX_LETTERS or size > MAX_BYTES):
            yield chunk
            chunk, size = [], letter.size
        chunk.append(letter)
    if chunk:
        yield chunk
