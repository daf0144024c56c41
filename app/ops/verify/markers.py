"""The applied markers: how far partitions are applied, and whether that is possible.

They are read first, at the ends of the changelogs, because the folds end at the markers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from faust.types import TP
from pydantic import ValidationError

from app.domain.errors import SettingsError
from app.engine.marker import MARKER_KEY, Marker, why_refused
from app.engine.partitions import short_id
from app.kafka.partition_reader import Extent, Reader
from app.ops.verify.findings import Difference, Findings
from app.ops.verify.places import Span, place

#: How many offsets are read first. A transaction ends with the marker and a control record.
_TAIL = 16
_TAIL_GROWS = 16


@dataclass(frozen=True, slots=True)
class Found:
    """The newest marker of a changelog partition, and what is wrong with it."""

    changelog: Extent
    marker: Marker | None
    #: What is wrong with the marker; None if nothing is.
    wrong: str | None = None

    def require(self, rules: str) -> None:
        """Raise `SettingsError` if the rows were decided under other rules."""
        why = None if self.marker is None else why_refused(self.marker.rules, rules)
        if why is not None:
            raise SettingsError(f"{self.changelog.topic} {why}: nothing can be verified")

    def require_applied(self, topic: str, offset: int, findings: Findings) -> None:
        """Report a marker behind the group's offset of a topic: the changelog has lost it."""
        at = _applied(self.marker, topic)
        if at < offset and self.wrong is None:
            where = f"{self.changelog.topic} {self.changelog.partition}"
            findings.differs(
                Difference.MARKER,
                f"{where} is at {at} of {topic}, which was applied up to {offset}: the changelog "
                "has lost something",
            )

    async def compare_source(self, reader: Reader, log: Extent, findings: Findings) -> None:
        """Report a source that lacks applied records, or is another topic."""
        if self.marker is None or log.topic not in self.marker.next:
            return
        if (why := await _why_lost(reader, log, self.marker)) is not None:
            where = f"{self.changelog.topic} {self.changelog.partition}"
            at = self.marker.next[log.topic]
            findings.differs(Difference.MARKER, f"{where} is at {at} of {log.topic}, {why}")

    def span(self, log: Extent, findings: Findings) -> Span:
        """Return the applied records of a log; report it if some were deleted before."""
        until = log.end if self.wrong else min(_applied(self.marker, log.topic), log.end)
        if until < log.start and self.marker and log.topic in self.marker.next:
            findings.unchecked.append(
                f"{log.topic} {log.partition}: applied up to {until}, the log begins at "
                f"{log.start}; what stood between was removed before it was applied"
            )
        return Span(log.topic, log.partition, log.start, max(until, log.start))


async def _why_lost(reader: Reader, log: Extent, marker: Marker) -> str | None:
    """Return what happened to a log that lacks applied records; None if nothing did."""
    topic = log.topic
    now = short_id(reader.topic_id(topic))
    if marker.ids.get(topic, now) != now:
        return "which was deleted and recreated since"
    if marker.next[topic] > log.end:
        return f"which ends at {log.end}: it has lost its end"
    read, epoch = marker.last_read(topic)
    if read < log.start:
        return None
    lost = await reader.diverges_at(TP(topic, log.partition), read, epoch)
    return None if lost is None else f"which has lost its end from {lost} on, and has grown"


def _applied(marker: Marker | None, topic: str) -> int:
    # Without a marker nothing was applied, nor of a topic that the marker does not name.
    following: Mapping[str, int] = {} if marker is None else marker.next
    return following.get(topic, 0)


async def newest(reader: Reader, changelog: Extent) -> Found:
    """Return the newest marker of a changelog partition."""
    back, found = _TAIL, 0
    start = changelog.end
    while start > changelog.start:
        start = max(changelog.end - back, changelog.start)
        marker = None
        found = 0
        tail = Extent(changelog.topic, changelog.partition, start, changelog.end)
        async for records in reader.read(tail):
            found += len(records)
            marker = next((r for r in reversed(records) if r.key == MARKER_KEY), marker)
        if marker is not None:
            return _decoded(changelog, marker.offset, marker.value)
        back *= _TAIL_GROWS
    nothing = f"{changelog.topic} {changelog.partition} has rows and no marker"
    return Found(changelog, None, nothing if found else None)


def _decoded(changelog: Extent, offset: int, value: bytes | None) -> Found:
    try:
        return Found(changelog, Marker.decode(value or b""))
    except ValidationError:
        where = place(changelog.topic, changelog.partition, offset)
        return Found(changelog, None, f"{where} cannot be read")
