"""Waits for a moment in which nothing is in flight.

Workers refuse writes meanwhile.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from app.domain.errors import TopicsError
from app.engine.marker import Marker
from app.kafka.partition_reader import Extent, Reader
from app.kafka.partitioning import Change, Partitioning, Register, Step
from app.kafka.topics import Topics, TopicSpec

#: Writes are held when so few offsets of changelogs are left to read.
NEARLY = 20_000
#: How long writes may be held. Some time later, workers continue by themselves.
HOLD_SECONDS = 25.0
#: After this time without new registrations, no worker can still be writing.
STILL_SECONDS = 0.3
#: Other programs may write without end. The command waits no longer than this.
MAX_STILL_SECONDS = 3.0
LOOK_SECONDS = 0.05

#: A changelog and a partition of it.
Place = tuple[str, int]

#: Called with what is done now, in words.
Tell = Callable[[str], None]


class FollowsChangelogs(Protocol):
    """Reads changelogs up to their ends."""

    @property
    def markers(self) -> Mapping[Place, Marker]:
        """The newest marker of each changelog partition."""
        ...

    async def catch_up(self) -> None:
        """Read all rows that are committed now."""


#: The next offset of each source, by changelog partition.
Following = Mapping[Place, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Sources:
    """The topics, and two readers: of committed records, and of all records."""

    topics: Topics
    committed: Reader
    everything: Reader

    async def extents(self, topic: TopicSpec) -> Sequence[Extent]:
        """Return the partitions of a topic as they are now, open transactions included."""
        return await self.everything.extents(topic)

    async def following(
        self, markers: Mapping[Place, Marker], registrations: Sequence[Extent]
    ) -> Following | None:
        """Return the next offsets of all sources if everything before is applied; else None.

        For registrations, only records before the ends of ``registrations`` count. Two equal
        answers prove that nothing was in flight between them, because every claim follows from a
        registration or a verdict, and every verdict from a claim.
        """
        topics = self.topics
        sources = {
            topics.users_changelog.name: (
                registrations,
                await self.extents(topics.email_decisions),
            ),
            topics.emails_changelog.name: (await self.extents(topics.email_claims),),
        }
        following: dict[Place, Mapping[str, int]] = {}
        for changelog, logs in sources.items():
            for number in range(topics.users_changelog.partitions):
                extents = [log[number] for log in logs]
                marker = markers.get((changelog, number))
                for extent in extents:
                    if await self._is_left(extent, marker):
                        return None
                following[changelog, number] = {each.topic: each.end for each in extents}
        return following

    async def _is_left(self, extent: Extent, marker: Marker | None) -> bool:
        """Return whether a source has records that are not applied."""
        applied = 0 if marker is None else marker.next.get(extent.topic, 0)
        # Behind the last record there may be control records, which are never applied.
        rest = replace(extent, start=max(applied, extent.start))
        async for records in self.committed.read(rest):
            if records:
                return True
        return False


async def drained(
    sources: Sources,
    followed: FollowsChangelogs,
    register: Register,
    now: Partitioning,
    partitions: int,
    tell: Tell,
) -> Following:
    """Let workers refuse writes and apply everything; return the next offsets of the sources.

    Workers refuse writes until another change is written.
    """
    await register.write(now.changing(Change(partitions=partitions, step=Step.HOLDING)))
    tell("writes are held")
    registrations = await _when_still(sources)
    ends = tuple(extent.end for extent in registrations)
    draining = Change(partitions=partitions, step=Step.DRAINING, ends=ends)
    await register.write(now.changing(draining))
    last: Following | None = None
    while True:
        await followed.catch_up()
        following = await sources.following(followed.markers, registrations)
        if following is not None and following == last:
            return following
        last = following
        await asyncio.sleep(0 if following else LOOK_SECONDS)


@asynccontextmanager
async def in_time() -> AsyncIterator[asyncio.Timeout]:
    """Raise `TopicsError` if the block takes longer than writes may be held; yield the limit."""
    try:
        async with asyncio.timeout(HOLD_SECONDS) as limit:
            yield limit
    except TimeoutError:
        if not limit.expired():
            raise
        raise TopicsError(
            f"it took longer than {HOLD_SECONDS:.0f} s until everything was applied; "
            "nothing changed, try again while less is written"
        ) from None


async def _when_still(sources: Sources) -> Sequence[Extent]:
    """Return the ends of registrations, as soon as they stop growing, or after the longest wait."""
    topic = sources.topics.user_registrations
    began = still_since = time.monotonic()
    found = await sources.extents(topic)
    while time.monotonic() - still_since < STILL_SECONDS:
        await asyncio.sleep(LOOK_SECONDS)
        before, found = found, await sources.extents(topic)
        if [each.end for each in found] != [each.end for each in before]:
            still_since = time.monotonic()
        if time.monotonic() - began > MAX_STILL_SECONDS:
            break
    return found
