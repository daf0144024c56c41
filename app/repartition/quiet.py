"""Whether nothing is in flight: everything that was sent is applied, and all that came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.engine.marker import Marker
from app.reading import Extent, Reader
from app.repartition.copying import Place
from app.topics import Topics, TopicSpec

#: What follows of each source, by changelog partition.
Following = Mapping[Place, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Sources:
    """The topics, and who reads them: what is committed, and everything."""

    topics: Topics
    committed: Reader
    everything: Reader

    async def extents(self, topic: TopicSpec) -> Sequence[Extent]:
        """Return the partitions of a topic as they are now, open transactions included."""
        return await self.everything.extents(topic)

    async def following(
        self, markers: Mapping[Place, Marker], registrations: Sequence[Extent]
    ) -> Following | None:
        """Return what follows of all sources if everything before is applied; else None.

        Of registrations, those that stand before the ends of ``registrations``. Two answers that
        are the same say that nothing was in flight between them: a claim comes of a registration
        or a verdict, and a verdict of a claim.
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
        # Behind the last record there may be control records, which nobody applies.
        rest = replace(extent, start=max(applied, extent.start))
        async for records in self.committed.read(rest):
            if records:
                return True
        return False
