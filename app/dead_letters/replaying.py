"""Opens and closes what a replay needs, for the command and for the page."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from app.config.settings import Settings
from app.dead_letters.letters import Letter, Name
from app.dead_letters.reading import LetterTopic
from app.dead_letters.replay import Replay
from app.dead_letters.sending import replay_producer
from app.domain.errors import NotReadyError, NotReplayedError, Unavailable, UnknownLetterError
from app.domain.positions import Position
from app.kafka.partition_reader import reader
from app.kafka.partitioning import current_partitioning
from app.kafka.topics import Topics, declare
from app.kafka.transactional_ids import command_id

#: How long a single replay from the page may take. An old letter may have many records after it.
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Replaying:
    """All letters, and the replay of some of them."""

    topics: Topics
    found: Mapping[Name, Letter]
    replay: Replay

    def at(self, position: Position) -> list[Letter]:
        """Return the letters at a position of any topic, in flow order."""
        names = [(topic.name, position) for topic in self.topics.all()]
        return [self.found[name] for name in names if name in self.found]


@asynccontextmanager
async def replaying(
    wanted: Settings, *, force: bool = False, dry_run: bool = False
) -> AsyncIterator[Replaying]:
    """Open what a replay needs. It fences other commands and pages that replay."""
    topics = declare(await current_partitioning(wanted))
    kafka = wanted.kafka
    async with AsyncExitStack() as held:
        committed = await held.enter_async_context(
            reader(kafka, (topics.dead_letter, topics.user_registrations))
        )
        everything = await held.enter_async_context(reader(kafka, (), "read_uncommitted"))
        # Start the producer first: then every earlier replay is committed, and its letters are
        # marked.
        producer = None
        if not dry_run:
            producer = await held.enter_async_context(
                replay_producer(kafka, command_id(wanted.app_id, "dead-letters"))
            )
        letters = LetterTopic(committed, topics.dead_letter)
        found = await letters.letters()
        replay = Replay(topics, letters, committed, everything, producer=producer, force=force)
        yield Replaying(topics, found, replay)


def why_not_open(letters: list[Letter]) -> str:
    """Return why there is no open letter at a position."""
    if not letters:
        return "there is no such dead letter"
    marked = letters[0]
    again = f" as {marked.replayed_as}" if marked.replayed_as else ""
    return f"it was {marked.mark}{again}"


class ReplaysLetters(Protocol):
    """What the web view needs to replay a letter. Tests may bring their own."""

    async def replay(self, position: Position) -> Position:
        """Replay the letter of a position; return where its record stands now."""
        ...


class LetterReplays:
    """Replays single letters for the web view, one at a time."""

    def __init__(self, wanted: Settings) -> None:
        self._settings = wanted
        self._turn = asyncio.Lock()

    async def replay(self, position: Position) -> Position:
        """Replay the letter of a position; return where its record stands now.

        Raises `UnknownLetterError`, `NotReplayedError` with the reason, or `NotReadyError`.
        """
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._turn:
                # Reading the records after a letter can take seconds. Keep it off the event loop of
                # writes.
                return await asyncio.to_thread(asyncio.run, self._in_time(position))
        except TimeoutError:
            raise NotReadyError(Unavailable.BROKER_SLOW) from None

    async def _in_time(self, position: Position) -> Position:
        async with asyncio.timeout(TIMEOUT_SECONDS), replaying(self._settings) as opened:
            return await _replay_one(opened, position)


async def _replay_one(opened: Replaying, position: Position) -> Position:
    letters = opened.at(position)
    if not letters:
        raise UnknownLetterError(why_not_open(letters))
    chosen = next((letter for letter in letters if letter.is_open), None)
    if chosen is None:
        raise NotReplayedError(why_not_open(letters))
    async for told in opened.replay.run([chosen]):
        if told.replayed_as is not None:
            return told.replayed_as
        raise NotReplayedError(told.refused or "")
    raise NotReplayedError(why_not_open(letters))
