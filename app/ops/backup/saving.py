"""Saves a registry, at a moment when nothing is in flight."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.config.settings import Settings
from app.domain.errors import FencedError, SettingsError, TopicsError
from app.engine.marker import MARKER_KEY, Marker, rules
from app.kafka.partition_reader import Extent, Reader, TopicFollower, reader
from app.kafka.partitioning import Partitioning, Register, read
from app.kafka.progress import bar
from app.kafka.topics import TopicSpec, declare
from app.ops.backup.files import Manifest, Saved, Writing
from app.ops.repartition.quiet import NEARLY, Following, Place, Sources, Tell, drained, in_time
from app.system.files import make_private

# -- compacted topics


@dataclass(slots=True)
class Followed:
    """Reads topics from the beginning into files, and then new records."""

    following: TopicFollower
    files: Mapping[Place, Writing]

    #: The newest marker of each changelog partition.
    markers: dict[Place, Marker] = field(default_factory=dict)

    async def left(self) -> int:
        """Return how many offsets are committed and not read yet."""
        return await self.following.left()

    async def catch_up(self) -> None:
        """Read all records that are committed now."""
        async for extent, records in self.following.read():
            place = extent.topic, extent.partition
            self.files[place].add(records)
            markers = [record.value for record in records if record.key == MARKER_KEY]
            if markers:
                self.markers[place] = Marker.decode(markers[-1] or b"")

    async def saved(self) -> list[Saved]:
        """Close the files, and return their entries."""
        return [
            self.files[each.topic, each.partition].end(each.start, self.following.next(each))
            for each in await self.following.extents()
        ]


@contextmanager
def _followed(reading: Reader, topics: Sequence[TopicSpec], folder: Path) -> Iterator[Followed]:
    """Follow topics, and close their files at the end."""
    files: dict[Place, Writing] = {}
    try:
        for spec in topics:
            for number in range(spec.partitions):
                files[spec.name, number] = Writing(folder, spec.name, number)
        yield Followed(TopicFollower(reading, topics), files)
    finally:
        for file in files.values():
            file.close()


# -- the whole registry


@dataclass(slots=True)
class Report:
    """The result of a backup."""

    manifest: Manifest
    held_seconds: float


async def back_up(settings: Settings, folder: Path, tell: Tell) -> Report:
    """Save a registry to a new folder; raise `RegistryError` if that is not possible."""
    now = await read(settings)
    now.require_no_change()
    settings = now.of(settings)
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
        make_private(folder)
        if any(folder.iterdir()):
            raise SettingsError(f"{folder} is not empty")
    except OSError as error:
        raise _not_written(folder, error) from None


async def _save(
    settings: Settings, sources: Sources, folder: Path, tell: Tell
) -> tuple[list[Saved], float]:
    topics = sources.topics
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
        sources.committed.advance = advance
        with _followed(sources.committed, compacted, folder) as followed:
            while await followed.left() > NEARLY:
                await followed.catch_up()
            await followed.catch_up()
            extents, held_seconds = await _moment(settings, sources, followed, appended, tell)
            saved = await followed.saved()
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
    """Wait until nothing is in flight; return what to save of that moment."""
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
    """Return the extents. Those of sources end where they were applied at that moment."""
    ends = {
        (topic, number): end
        for (_, number), sources in at.items()
        for topic, end in sources.items()
    }
    return [replace(each, end=ends.get((each.topic, each.partition), each.end)) for each in extents]
