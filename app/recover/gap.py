"""A gap is accepted: the marker is set behind records that are not in their topic any more."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from faust.types import TP

from app.engine.fetching import diverges_at
from app.engine.lean import NO_HEADERS
from app.engine.marker import MARKER_KEY, Marker
from app.engine.partitions import short_id
from app.recover.ground import Agrees, Ground, ground, note
from app.settings import Settings

CAUSE = "lost-records"


@dataclass(frozen=True, slots=True)
class Gap:
    """Records of a source partition that are gone: from the first one on, to before ``until``.

    Where the topic is another one, nobody can say up to where.
    """

    source: TP
    first: int
    until: int | None
    goes_on_at: int
    why: str

    def __str__(self) -> str:
        last = "?" if self.until is None else str(self.until - 1)
        return (
            f"{self.source.topic}, partition {self.source.partition}: records {self.first} to "
            f"{last} are lost ({self.why}); it goes on at {self.goes_on_at}"
        )


async def accept(settings: Settings, agrees: Agrees) -> Sequence[str]:
    """Go on behind all gaps there are; return what was done."""
    async with ground(settings) as given:
        found: list[tuple[TP, Marker, list[Gap]]] = []
        for changelog, sources in _tables(given):
            marker = await given.marker_in(changelog)
            if marker is not None and (gaps := await _gaps(given, marker, sources)):
                found.append((changelog, marker, gaps))
        told = [str(gap) for _, _, gaps in found for gap in gaps]
        if not told:
            return ["there is no gap: the topics have all records that come next"]
        if not agrees(told):
            return ["nothing was done"]
        for changelog, marker, gaps in found:
            await _write(given, changelog, marker, gaps)
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


async def _gaps(given: Ground, marker: Marker, sources: Sequence[TP]) -> list[Gap]:
    cluster = given.cluster
    begins, ends = await cluster.starts(sources), await cluster.ends(sources)
    gaps = []
    for tp in sources:
        at = marker.next.get(tp.topic)
        if at is None:
            continue
        begin, end = begins[tp], ends[tp]
        now = short_id(cluster.topic_id(tp.topic))
        if marker.ids.get(tp.topic, now) != now:
            gaps.append(Gap(tp, at, None, begin, "the topic was made anew"))
        elif at < begin:
            gaps.append(Gap(tp, at, begin, begin, "they were deleted before they were applied"))
        elif at > end:
            gaps.append(Gap(tp, end, at, end, "the log has lost its end, which was applied"))
        elif (lost := await diverges_at(cluster, tp, *marker.last_read(tp.topic))) is not None:
            gaps.append(Gap(tp, lost, at, lost, "the log has lost its end, which was applied"))
    return gaps


async def _write(given: Ground, changelog: TP, marker: Marker, gaps: Sequence[Gap]) -> None:
    """Write the marker and the summaries, in one transaction."""
    letters = []
    for gap in gaps:
        topic = gap.source.topic
        marker = marker.going_on(topic, gap.goes_on_at, short_id(given.cluster.topic_id(topic)))
        key = f"{CAUSE}/{topic}/{gap.source.partition}/{gap.first}".encode()
        summary = {
            "topic": topic,
            "partition": gap.source.partition,
            "first": gap.first,
            "last": None if gap.until is None else gap.until - 1,
            "why": gap.why,
        }
        headers = [("error", CAUSE.encode()), ("error-detail", str(gap).encode())]
        letters.append((None, key, orjson.dumps(summary), headers))
    await given.producer.write(
        {
            changelog: [(None, MARKER_KEY, marker.encode(), NO_HEADERS)],
            TP(given.topics.dead_letter.name, changelog.partition): letters,
        }
    )
