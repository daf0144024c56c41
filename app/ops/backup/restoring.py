"""Restores a registry: creates the topics and fills them."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import KafkaError

from app.config.settings import Settings
from app.domain.errors import FencedError, SettingsError, TopicsError
from app.engine.marker import MARKER_KEY, Marker, rules, why_refused
from app.kafka.admin_client import AdminClient
from app.kafka.client_errors import unusable
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.partition_reader import Advance
from app.kafka.partitioning import Change, Register, Step, read
from app.kafka.progress import bar
from app.kafka.topics import Topics, connected, declare, remake
from app.kafka.transactions import MAX_BATCH_BYTES, MAX_REQUEST_BYTES
from app.ops.backup.exact import ExactWriter, runs, write_plainly
from app.ops.backup.files import Kept, Manifest, Saved, read_records, require_sound
from app.ops.repartition.quiet import Tell

#: How many partitions are written at the same time.
AT_ONCE = 8


@dataclass(slots=True)
class Report:
    """The result of a restore."""

    manifest: Manifest
    records: int


async def restore(settings: Settings, folder: Path, tell: Tell) -> Report:
    """Restore the registry of a backup; raise `RegistryError` if that is not possible."""
    manifest = await asyncio.to_thread(_sound, settings, folder)
    there = manifest.partitioning
    settings = settings.partitioned(there.partitions, there.generation)
    topics = declare(settings)
    try:
        await _make_room(settings, topics)
        register = Register(settings)
        try:
            await register.start()
            restoring = Change(partitions=there.partitions, step=Step.RESTORING)
            await register.write(there.changing(restoring))
            records = sum(saved.records for saved in manifest.saved)
            tell(f"{records:,} records are restored")
            with bar(records) as advance:
                await _fill_all(settings, topics, folder, manifest, advance)
            await register.write(there.changing(None))
        finally:
            await register.close()
    except FencedError:
        raise TopicsError("another command has taken over") from None
    except (TimeoutError, KafkaError) as error:
        raise unusable(settings.kafka, error) from None
    return Report(manifest, records)


def _sound(settings: Settings, folder: Path) -> Manifest:
    manifest = Manifest.read(folder)
    for name, mine, theirs in (
        ("APP_ID", settings.app_id, manifest.app_id),
        ("TOPIC_PREFIX", settings.topic_prefix, manifest.topic_prefix),
    ):
        if mine != theirs:
            raise SettingsError(f"{name}: the backup is of {theirs!r}, and the setting is {mine!r}")
    if why_refused(manifest.rules, rules(settings.email_keys)) is not None:
        raise SettingsError(
            "EMAIL_SECRET: the backup was made under another one, or by a version that decides "
            "otherwise"
        )
    for saved in manifest.saved:
        require_sound(folder, saved)
    return manifest


async def _make_room(settings: Settings, topics: Topics) -> None:
    """Create all topics, unless there is a registry already."""
    async with connected(settings) as admin:
        there = set(await admin.list_topics()) & {spec.name for spec in topics.all()}
    if there and not (await read(settings)).is_being_restored:
        some = ", ".join(sorted(there)[:2])
        raise TopicsError(
            f"there is a registry already (topics {some} …): delete its topics before"
        )
    async with connected(settings) as admin:
        await remake(admin, topics.all())


async def _fill_all(
    settings: Settings, topics: Topics, folder: Path, manifest: Manifest, advance: Advance
) -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    exact = {
        t.name for t in (topics.user_registrations, topics.email_claims, topics.email_decisions)
    }
    plain = AIOKafkaProducer(
        **settings.kafka.client(),
        acks="all",
        enable_idempotence=True,
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=MAX_REQUEST_BYTES,
    )

    async def one(saved: Saved) -> None:
        async with turn:
            if saved.topic in exact:
                await _fill_exactly(settings, folder, saved, advance)
            else:
                rows = _counted(read_records(folder, saved), saved, advance)
                await write_plainly(plain, saved.topic, saved.partition, _for_new_log(rows))

    async with plain:
        await asyncio.gather(*map(one, manifest.saved))


async def _fill_exactly(settings: Settings, folder: Path, saved: Saved, advance: Advance) -> None:
    name = f"{settings.app_id}-restore-{saved.topic}-{saved.partition}"
    records = _counted(read_records(folder, saved), saved, advance)
    first = next(records, None)
    async with ExactWriter(settings.kafka, name, saved.topic, saved.partition) as writer:
        await writer.begin(saved.start, 0 if first is None else first.timestamp)
        if first is not None:
            for run in runs(_with(first, records), saved.start, saved.end):
                await writer.write(run)
        else:
            await writer.begin(saved.end, 0)
        await writer.end()
    if saved.start or first is None:
        async with connected(settings) as admin:
            await _delete_before(admin, saved, saved.start if first is not None else saved.end)


def _with(first: Kept, others: Iterator[Kept]) -> Iterator[Kept]:
    yield first
    yield from others


def _counted(records: Iterator[Kept], saved: Saved, advance: Advance) -> Iterator[Kept]:
    for record in records:
        advance(f"{saved.topic} {saved.partition}", 1)
        yield record


def _for_new_log(rows: Iterator[Kept]) -> Iterator[ToWrite]:
    """Yield the records to write. Of the markers of a changelog, only the last, with a new log id.

    Stores of the old log must not be used again, because the offsets are different.
    """
    marker = None
    for row in rows:
        if row.key == MARKER_KEY:
            marker = row
        else:
            yield row.to_write()
    if marker is not None and marker.value is not None:
        copied = Marker.decode(marker.value).for_copy()
        yield marker.timestamp, MARKER_KEY, copied.encode(), NO_HEADERS


async def _delete_before(admin: AdminClient, saved: Saved, offset: int) -> None:
    tp = TopicPartition(saved.topic, saved.partition)
    await admin.delete_records({tp: RecordsToDelete(offset)})
