"""Accepts a gap: sets the marker behind records that are lost."""

from collections.abc import Sequence
from dataclasses import dataclass

from faust.types import TP

from app.config.settings import Settings
from app.dead_letters.summaries import LOST_RECORDS, Summary
from app.engine.marker import MARKER_KEY, Marker
from app.engine.partitions import short_id
from app.kafka.fast_records import NO_HEADERS
from app.kafka.fetching import diverges_at
from app.ops.recover.ground import Agrees, Ground, ground, note


@dataclass(frozen=True, slots=True)
class Gap:
    """Lost records of a source partition: from ``first`` to before ``until``.

    If the topic was made again, the end is unknown.
    """

    source: TP
    first: int
    until: int | None
    goes_on_at: int
    why: str

    def __str__(self) -> str:
        lost = "is lost" if self.summary.first == self.summary.last else "are lost"
        return f"{self.summary} {lost} ({self.why}); the partition continues at {self.goes_on_at}"

    @property
    def summary(self) -> Summary:
        """The summary that the dead-letter topic keeps."""
        topic, partition = self.source
        last = None if self.until is None else self.until - 1
        return Summary(topic=topic, partition=partition, first=self.first, last=last, why=self.why)


async def accept(settings: Settings, agrees: Agrees) -> Sequence[str]:
    """Set the markers behind all gaps; return what was done."""
    async with ground(settings) as given:
        found: list[tuple[TP, Marker, list[Gap]]] = []
        for changelog, sources in _tables(given):
            marker = await given.marker_in(changelog)
            if marker is not None and (lost := await gaps(given, marker, sources)):
                found.append((changelog, marker, lost))
        told = [str(gap) for _, _, lost in found for gap in lost]
        if not told:
            return ["there is no gap: the topics have all records that come next"]
        if not await given.confirmed(told, agrees):
            return ["nothing was done"]
        for changelog, marker, lost in found:
            await _write(given, changelog, marker, lost)
        for line in told:
            note(line)
        return ["accepted: start the workers, and run: python -m app verify"]


def _tables(given: Ground) -> Sequence[tuple[TP, Sequence[TP]]]:
    topics = given.topics
    tables = (
        (topics.users_changelog, (topics.user_registrations, topics.email_decisions)),
        (topics.emails_changelog, (topics.email_claims,)),
    )
    return [
        (TP(changelog.name, number), [TP(source.name, number) for source in sources])
        for changelog, sources in tables
        for number in range(changelog.partitions)
    ]


async def gaps(given: Ground, marker: Marker, sources: Sequence[TP]) -> list[Gap]:
    """Return the gaps of the sources after a marker, or before it."""
    cluster = given.cluster
    begins, ends = await cluster.starts(sources), await cluster.ends(sources)
    found = []
    for tp in sources:
        at = marker.next.get(tp.topic)
        if at is None:
            continue
        begin, end = begins[tp], ends[tp]
        now = short_id(cluster.topic_id(tp.topic))
        if marker.ids.get(tp.topic, now) != now:
            found.append(Gap(tp, at, None, begin, "the topic was recreated"))
        elif at < begin:
            found.append(Gap(tp, at, begin, begin, "they were deleted before they were applied"))
        elif at > end:
            found.append(Gap(tp, end, at, end, "the log has lost its end, which was applied"))
        elif (lost := await diverges_at(cluster, tp, *marker.last_read(tp.topic))) is not None:
            found.append(Gap(tp, lost, at, lost, "the log has lost its end, which was applied"))
    return found


async def _write(given: Ground, changelog: TP, marker: Marker, lost: Sequence[Gap]) -> None:
    """Write the marker and the summaries in one transaction."""
    letters = []
    for gap in lost:
        topic = gap.source.topic
        marker = marker.going_on(topic, gap.goes_on_at, short_id(given.cluster.topic_id(topic)))
        letters.append(gap.summary.to_write(LOST_RECORDS, str(gap)))
    await given.write(
        {
            changelog: [(None, MARKER_KEY, marker.encode(), NO_HEADERS)],
            TP(given.topics.dead_letter.name, changelog.partition): letters,
        }
    )
