"""Reads the dead-letter topic: the newest record of each key counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

from app.dead_letters.letters import Letter, Name, Original
from app.kafka.partition_reader import Extent, Reader
from app.kafka.progress import bar
from app.kafka.topics import TopicSpec


class LetterTopic:
    """The dead-letter topic. Only committed records count."""

    def __init__(self, reading: Reader, topic: TopicSpec) -> None:
        self._reading = reading
        self._topic = topic
        self._found: dict[Name, Letter] = {}
        #: By partition: the offset up to which it was read.
        self._read: dict[int, int] = {}

    async def letters(self) -> Mapping[Name, Letter]:
        """Return all letters and marks without originals. A second call reads only new records."""
        extents = await self._reading.extents(self._topic)
        rest = [replace(e, start=max(e.start, self._read.get(e.partition, 0))) for e in extents]
        with bar(sum(map(len, rest))) as self._reading.advance:
            await self._note(rest)
        return self._found

    async def newest(self, records: int) -> tuple[Mapping[Name, Letter], bool]:
        """Return letters and marks among the newest records of each partition.

        The second value says whether there are older records.
        """
        extents = await self._reading.extents(self._topic)
        ends = [replace(e, start=max(e.start, e.end - records)) for e in extents]
        await self._note(ends)
        return self._found, ends != extents

    async def _note(self, extents: Iterable[Extent]) -> None:
        for extent in extents:
            async for records in self._reading.read(extent):
                for record in records:
                    letter = Letter.read(record)
                    # Ignore what other programs wrote into the topic.
                    if letter is not None and letter.position.partition == extent.partition:
                        self._found[letter.name] = letter.without_bytes()
            self._read[extent.partition] = max(extent.start, extent.end)

    async def originals(self, letters: Sequence[Letter]) -> dict[Name, Original]:
        """Return the originals of letters, as far as the topic still has them.

        It reads each partition once, from the first letter to the last.
        """
        wanted = {(letter.position.partition, letter.offset) for letter in letters}
        found: dict[Name, Original] = {}
        for partition, places in groupby(sorted(wanted), key=itemgetter(0)):
            offsets = {offset for _, offset in places}
            extent = Extent(self._topic.name, partition, min(offsets), max(offsets) + 1)
            async for records in self._reading.read(extent):
                for record in records:
                    letter = Letter.read(record) if record.offset in offsets else None
                    if letter is not None and letter.original is not None:
                        found[letter.name] = letter.original
        return found
