"""The newest dead letters, for the page: bounded, and read once for all readers."""

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

#: Of each partition, the newest records that are read; of all, the newest letters that are shown.
MAX_RECORDS = 1_000
MAX_LETTERS = 100

#: How long one reading is good for, and how long it may take.
SHARED_SECONDS = 2.0
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Recent:
    """The causes of the letters that were read, the newest of them, and whether there are more."""

    causes: Sequence[Cause]
    letters: Sequence[Letter]
    truncated: bool


class ReadsDeadLetters(Protocol):
    """What the web view needs of dead letters; tests may bring their own."""

    async def recent(self) -> Recent:
        """Return the newest dead letters; `NotReadyError` if that takes too long."""
        ...

    def forget(self) -> None:
        """Read anew when somebody asks: one was replayed."""
        ...


class RecentDeadLetters:
    """Reads the newest dead letters, at most every two seconds."""

    def __init__(self, connection: Connection, topic: TopicSpec) -> None:
        self._connection = connection
        self._topic = topic
        self._reading: asyncio.Task[Recent] | None = None
        self._good_until = 0.0

    async def recent(self) -> Recent:
        """Return the newest dead letters, as they were at most two seconds ago."""
        reading = self._reading
        if reading is None or (reading.done() and time.monotonic() > self._good_until):
            self._reading = reading = asyncio.create_task(self._read())
        # Who gives up waiting does not end it for others.
        return await asyncio.shield(reading)

    def forget(self) -> None:
        """Read anew when somebody asks: one was replayed."""
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
