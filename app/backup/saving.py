"""Saving a registry: what is compacted is followed, as nobody could read it later as it was."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from app.backup.files import Manifest, Saved, Writing
from app.connection import Connection
from app.engine.lean import make_lean
from app.engine.marker import MARKER_KEY, Marker, rules
from app.errors import FencedError, SettingsError, TopicsError
from app.partitioning import Partitioning, Register, read
from app.progress import bar
from app.reading import Advance, Extent, reader
from app.repartition.quiet import NEARLY, Following, Place, Sources, Tell, drained, in_time
from app.settings import Settings
from app.topics import TopicSpec, declare

MAX_RECORDS = 20_000
MAX_FETCH_BYTES = 8 * 1024 * 1024
POLL_MS = 50


# -- what is compacted


@dataclass(slots=True)
class Followed:
    """Reads topics from the beginning, and then what comes, into their files."""

    consumer: AIOKafkaConsumer
    files: Mapping[Place, Writing]
    advance: Advance

    #: The newest marker of each changelog partition.
    markers: dict[Place, Marker] = field(default_factory=dict)

    def _all(self) -> list[TopicPartition]:
        return [TopicPartition(*place) for place in self.files]

    async def left(self) -> int:
        """Return how many offsets are committed and not read yet."""
        ends = await self.consumer.end_offsets(self._all())
        return sum([max(ends[tp] - await self.consumer.position(tp), 0) for tp in self._all()])

    async def catch_up(self) -> None:
        """Read up to what is committed now."""
        ends = await self.consumer.end_offsets(self._all())
        while any([await self.consumer.position(tp) < ends[tp] for tp in self._all()]):
            await self.read_some()

    async def read_some(self) -> None:
        """Read what has come."""
        before = {tp: await self.consumer.position(tp) for tp in self._all()}
        fetched = await self.consumer.getmany(timeout_ms=POLL_MS, max_records=MAX_RECORDS)
        for tp, records in fetched.items():
            self.files[tp.topic, tp.partition].add(records)
            markers = [record.value for record in records if record.key == MARKER_KEY]
            if markers:
                self.markers[tp.topic, tp.partition] = Marker.decode(markers[-1])
            further = await self.consumer.position(tp) - before[tp]
            self.advance(f"{tp.topic} {tp.partition}", further)

    async def saved(self) -> list[Saved]:
        """Return what was saved; nothing more is."""
        starts = await self.consumer.beginning_offsets(self._all())
        return [
            self.files[tp.topic, tp.partition].end(starts[tp], await self.consumer.position(tp))
            for tp in self._all()
        ]


@asynccontextmanager
async def _following(
    connection: Connection, topics: Sequence[TopicSpec], folder: Path, advance: Advance
) -> AsyncIterator[Followed]:
    """Follow topics; their files are closed in the end."""
    consumer = AIOKafkaConsumer(
        **connection.client(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=MAX_FETCH_BYTES,
    )
    files: dict[Place, Writing] = {}
    async with consumer:
        make_lean(consumer)
        try:
            for spec in topics:
                for number in range(spec.partitions):
                    files[spec.name, number] = Writing(folder, spec.name, number)
            consumer.assign([TopicPartition(*place) for place in files])
            yield Followed(consumer, files, advance)
        finally:
            for file in files.values():
                file.close()


# -- the whole


@dataclass(slots=True)
class Report:
    """What was saved."""

    manifest: Manifest
    held_seconds: float


async def back_up(settings: Settings, folder: Path, tell: Tell) -> Report:
    """Save a registry to a folder, which must be new; raise `RegistryError` if it cannot be."""
    now = await read(settings)
    if now.change is not None:
        raise TopicsError(
            "the registry is being repartitioned or saved; if that is no more: "
            "python -m app repartition --back"
        )
    settings = settings.partitioned(now.partitions, now.generation)
    topics = declare(settings)
    _make(folder)
    try:
        async with (
            reader(settings.kafka, topics.all()) as committed,
            reader(settings.kafka, (), "read_uncommitted") as everything,
        ):
            sources = Sources(topics, committed, everything)
            saved, held_seconds = await _save(settings, sources, folder, tell)
        manifest = Manifest(
            app_id=settings.app_id,
            topic_prefix=settings.topic_prefix,
            rules=rules(settings.email_keys),
            partitioning=now,
            saved=tuple(saved),
        )
        manifest.write(folder)
    except OSError as error:
        raise _not_written(folder, error) from None
    return Report(manifest, held_seconds)


def _not_written(folder: Path, error: OSError) -> SettingsError:
    return SettingsError(f"{folder} cannot be written: {error.strerror or error}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SettingsError(f"{folder} is not empty")
    except OSError as error:
        raise _not_written(folder, error) from None


async def _save(
    settings: Settings, sources: Sources, folder: Path, tell: Tell
) -> tuple[list[Saved], float]:
    topics, kafka = sources.topics, settings.kafka
    compacted = (topics.users_changelog, topics.emails_changelog, topics.dead_letter)
    appended = (
        topics.user_registrations,
        topics.email_claims,
        topics.email_decisions,
        topics.registration_outcomes,
    )
    begun = [each for spec in (*compacted, *appended) for each in await sources.extents(spec)]
    size = sum(map(len, begun))
    tell(f"{size:,} records are saved; workers go on")
    with bar(size) as advance:
        async with _following(kafka, compacted, folder, advance) as followed:
            while await followed.left() > NEARLY:
                await followed.read_some()
            await followed.catch_up()
            extents, held_seconds = await _moment(settings, sources, followed, appended, tell)
            saved = await followed.saved()
        sources.committed.advance = advance
        return [*saved, *[await _appended(sources, folder, each) for each in extents]], held_seconds


async def _appended(sources: Sources, folder: Path, extent: Extent) -> Saved:
    file = Writing(folder, extent.topic, extent.partition)
    try:
        async for records in sources.committed.read(extent):
            file.add(records)
        return file.end(extent.start, extent.end)
    finally:
        file.close()


async def _moment(
    settings: Settings,
    sources: Sources,
    followed: Followed,
    appended: Sequence[TopicSpec],
    tell: Tell,
) -> tuple[list[Extent], float]:
    """Wait for a moment in which nothing is in flight; return what there is to save of it."""
    register = Register(settings)
    began = time.monotonic()
    try:
        now: Partitioning = await register.start()
        try:
            async with in_time():
                at = await drained(sources, followed, register, now, now.partitions, tell)
                await followed.catch_up()
                extents = [each for spec in appended for each in await sources.extents(spec)]
        finally:
            await register.write(now.changing(None))
        tell("writes are taken again")
    except FencedError:
        raise TopicsError("another command, or a worker, has taken over") from None
    finally:
        await register.close()
    return _until(extents, at), time.monotonic() - began


def _until(extents: Sequence[Extent], at: Following) -> list[Extent]:
    """Return the extents, those of sources up to where they were applied at that moment."""
    ends = {
        (topic, number): end
        for (_, number), sources in at.items()
        for topic, end in sources.items()
    }
    return [replace(each, end=ends.get((each.topic, each.partition), each.end)) for each in extents]
