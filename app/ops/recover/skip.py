"""Skips one record: it becomes a dead letter, and the marker is set behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from faust.types import TP

from app.config.settings import Settings
from app.dead_letters.letters import DeadLetters
from app.dead_letters.summaries import SKIPPED, Summary
from app.domain.compact import dumps
from app.domain.consumed_records import ConsumedRecord, as_they_were
from app.domain.errors import SettingsError, UnreadableRecordError
from app.domain.outcomes import Outcome
from app.domain.parsing import id_of
from app.domain.positions import token
from app.domain.records import moment
from app.engine.barrier import Barrier
from app.engine.marker import MARKER_KEY, PAGE_RECORDS, Marker, letters_key, page_key, rules
from app.engine.partitions import short_id
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.fetching import Taken, scan
from app.kafka.transactions import to_write
from app.ops.recover.gap import gaps
from app.ops.recover.ground import Agrees, Ground, ground, note, who


@dataclass(frozen=True, slots=True)
class Skip:
    """The next record of a partition, and what is applied after it is skipped."""

    source: TP
    record: ConsumedRecord
    marker: Marker
    why: str

    def __str__(self) -> str:
        size = len(self.record.key or b"") + len(self.record.value or b"")
        return (
            f"{self.summary}, of {moment(self.record.timestamp)}, {size:,} bytes, is never applied "
            f"and becomes a dead letter ({self.why})"
        )

    @property
    def summary(self) -> Summary:
        """The summary that the dead-letter topic keeps."""
        topic, partition, offset = *self.source, self.record.offset
        return Summary(topic=topic, partition=partition, first=offset, last=offset, why=self.why)

    def letters(self, dead_letters: str) -> list[ToWrite]:
        """Return the dead letter, and the summary."""
        topic, partition = self.source
        error = UnreadableRecordError(SKIPPED, self.why)
        letter = DeadLetters(topic, dead_letters).letter(partition, self.record, error)
        return [to_write(letter), self.summary.to_write(SKIPPED, str(self))]

    @property
    def keys(self) -> tuple[bytes, bytes]:
        """The keys of the rows that change: the page of outcomes, and the letters of the id."""
        user_id = id_of(self.record) or ""
        return page_key(self.record.offset // PAGE_RECORDS), letters_key(user_id)

    def rows(self, before: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """Return the rows with the outcome of the record, the marker last."""
        page_of, letters_of = self.keys
        page = bytearray(before.get(page_of) or bytes(PAGE_RECORDS))
        page[self.record.offset % PAGE_RECORDS] = Outcome.DEAD_LETTER
        rows = {page_of: bytes(page)}
        if id_of(self.record) is not None:
            positions = orjson.loads(before.get(letters_of) or b"[]")
            position = token(self.source.partition, self.record.offset)
            rows[letters_of] = dumps([*positions, position])
        return {**rows, MARKER_KEY: self.marker.encode()}


async def skip(
    settings: Settings, source: TP, offset: int, reason: str, agrees: Agrees
) -> Sequence[str]:
    """Make one record a dead letter; return what was done.

    Raises `SettingsError` unless it is the next record of ``user-registrations`` to apply.
    """
    async with ground(settings) as given:
        _require_registrations(given, source)
        changelog = TP(given.topics.users_changelog.name, source.partition)
        marker = await given.marker_in(changelog) or await _first(given, source)
        taken = await _next(given, marker, source, offset)
        skipped = Skip(
            source,
            as_they_were(taken.records)[0],
            marker.after(source.topic, taken.next, taken.epoch),
            f"{reason}; by {who()}",
        )
        if not await given.confirmed([str(skipped)], agrees):
            return ["nothing was done"]
        await _write(given, changelog, skipped)
        note(str(skipped))
        return ["skipped: start the workers, and run: python -m app verify"]


def _require_registrations(given: Ground, source: TP) -> None:
    topic = given.topics.user_registrations
    if source.topic != topic.name:
        raise SettingsError(
            f"{source.topic}: only records of {topic.name} can be skipped: users that wait for "
            "the results of another one would wait for ever; see docs/operations.md"
        )
    if not 0 <= source.partition < topic.partitions:
        raise SettingsError(f"{source.topic}: there is no partition {source.partition}")


async def _first(given: Ground, source: TP) -> Marker:
    """Return the marker of a partition that has applied nothing."""
    cluster = given.cluster
    committed = await Barrier(cluster, given.settings.app_id).committed([source])
    if committed is None or committed.get(source, 0) > 0:
        raise SettingsError(
            f"{source.topic}, partition {source.partition}: records were applied, and the "
            "changelog is empty: see docs/operations.md#a-changelog-that-is-lost"
        )
    begin, end = (await cluster.starts([source])), (await cluster.ends([source]))
    ids = {source.topic: short_id(cluster.topic_id(source.topic))}
    marker = Marker.first().under(rules(given.settings.email_keys), ids)
    return marker.beginning(source.topic, begin[source], end[source])


async def _next(given: Ground, marker: Marker, source: TP, offset: int) -> Taken:
    """Return the next record to apply; raise `SettingsError` if it is another one."""
    for gap in await gaps(given, marker, [source]):
        raise SettingsError(f"{gap}: this is for `recover gap`")
    where = f"{source.topic}, partition {source.partition}"
    at, end = marker.next.get(source.topic, 0), (await given.cluster.stable_ends([source]))[source]
    async for taken in scan(given.cluster, source, at, end, 1, 1):
        if taken.records and taken.records[0].offset == offset:
            return taken
        if taken.records:
            following = taken.records[0].offset
            raise SettingsError(f"{where}: {following} is the next record to be applied")
    raise SettingsError(f"{where}: no record waits to be applied")


async def _write(given: Ground, changelog: TP, skipped: Skip) -> None:
    """Write the letter, the summary, the rows about them, and the marker."""
    before: dict[bytes, bytes] = {}
    async for records in given.records(changelog):
        before.update((r.key, r.value or b"") for r in records if r.key in skipped.keys)
    rows: list[ToWrite] = [
        (None, key, row, NO_HEADERS) for key, row in skipped.rows(before).items()
    ]
    letters = TP(given.topics.dead_letter.name, changelog.partition)
    await given.write({changelog: rows, letters: skipped.letters(letters.topic)})
