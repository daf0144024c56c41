"""The newest dead letters for the page: a bounded number, read once for all viewers."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.config.connection import Connection
from app.dead_letters.letters import Letter
from app.dead_letters.listing import Cause, by_cause, chosen
from app.dead_letters.reading import LetterTopic
from app.domain.errors import NotReadyError, Unavailable
from app.kafka.partition_reader import reader
from app.kafka.topics import TopicSpec

#: How many newest records of each partition are read, and how many letters are shown.
MAX_RECORDS = 1_000
MAX_LETTERS = 100

#: How long one result is reused, and how long reading may take.
SHARED_SECONDS = 2.0
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Recent:
    """Causes of the letters that were read, the newest letters, and whether there are more."""

    causes: Sequence[Cause]
    letters: Sequence[Letter]
    truncated: bool


class ReadsDeadLetters(Protocol):
    """What the web view needs of dead letters. Tests may bring their own."""

    async def recent(self) -> Recent:
        """Return the newest dead letters; `NotReadyError` if that takes too long."""
        ...

    def forget(self) -> None:
        """Read again at the next call, because a letter was replayed."""
        ...


class RecentDeadLetters:
    """Reads the newest dead letters, at most once in two seconds."""

    def __init__(self, connection: Connection, topic: TopicSpec) -> None:
        self._connection = connection
        self._topic = topic
        self._reading: asyncio.Task[Recent] | None = None
        self._good_until = 0.0

    async def recent(self) -> Recent:
        """Return the newest dead letters. The result is at most two seconds old."""
        reading = self._reading
        if reading is None or (reading.done() and time.monotonic() > self._good_until):
            self._reading = reading = asyncio.create_task(self._read())
        # A viewer that gives up must not cancel the reading of the others.
        return await asyncio.shield(reading)

    def forget(self) -> None:
        """Read again at the next call, because a letter was replayed."""
        self._reading = None

    async def _read(self) -> Recent:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                async with reader(self._connection, (self._topic,)) as reading:
                    found, more = await LetterTopic(reading, self._topic).newest(MAX_RECORDS)
        except TimeoutError:
            raise NotReadyError(Unavailable.BROKER_SLOW) from None
        finally:
            self._good_until = time.monotonic() + SHARED_SECONDS
        letters = chosen(found.values())
        truncated = more or len(letters) > MAX_LETTERS
        return Recent(by_cause(letters), letters[:MAX_LETTERS], truncated)
