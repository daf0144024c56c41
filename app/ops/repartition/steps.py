"""The steps of a repartition, in their order.

Until the new partitioning is written, everything can be given up, and workers continue as before.
After that, any worker that starts can do the rest: it adds the partitions that the topics lack.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from faust.types import TP

from app.config.settings import Settings
from app.domain.errors import (
    BrokerUnavailableError,
    FencedError,
    NotWrittenError,
    RegistryError,
    TopicsError,
)
from app.engine.barrier import fence, worker_ids
from app.engine.marker import MARKER_KEY, Marker, rules
from app.kafka.cluster import Cluster
from app.kafka.fast_records import NO_HEADERS
from app.kafka.partition_reader import reader
from app.kafka.partitioning import Change, Partitioning, Register, current_partitioning, read
from app.kafka.progress import bar
from app.kafka.topics import Topics, TopicSpec, connected, declare, delete, ensure, remake
from app.kafka.transactional_ids import command_id
from app.kafka.transactions import FencedProducer
from app.ops.repartition.copying import Copying, copying, require_same
from app.ops.repartition.quiet import NEARLY, Following, Place, Sources, Tell, drained, in_time
from app.ops.repartition.target_partitions import why_not
from app.system import retries

#: How long workers may take to own all partitions again.
RETURN_SECONDS = 60.0
LOOK_SECONDS = 0.05


class Stage(Enum):
    """How far a repartition came."""

    #: Nothing has changed, or will change.
    BEFORE = "before"
    #: The broker was asked to write the new partitioning, and has not answered.
    ASKED = "asked"
    #: The new partitioning is written.
    SWITCHED = "switched"


@dataclass(slots=True)
class Report:
    """The result of a repartition."""

    before: int = 0
    after: int = 0
    stage: Stage = Stage.BEFORE
    rows: int = 0
    #: For how long workers held writes, in seconds.
    held_seconds: float = 0.0
    seconds: float = 0.0
    have_returned: bool = False


async def repartition(settings: Settings, partitions: int, report: Report, tell: Tell) -> None:
    """Give a registry more partitions. If it has them already, finish what an earlier command left.

    ``report`` says how far it came, also if an error is raised: a `RegistryError`, mostly.
    """
    settings = await current_partitioning(settings)
    began = time.monotonic()
    report.before, report.after = settings.partitions, partitions
    has_workers = await _owned(settings) > 0
    before, after = settings, settings.partitioned(partitions, settings.generation + 1)
    if (left := await _left_by(settings, partitions)) is not None:
        before, after = left, settings
        report.before, report.stage = left.partitions, Stage.SWITCHED
    else:
        await _switch(before, after, report, tell)
    tell("topics grow; workers restart")
    await ensure(after)
    report.have_returned = not has_workers or await _all_return(after)
    if report.have_returned:
        await _empty_changelogs(before)
    report.seconds = time.monotonic() - began


async def _left_by(settings: Settings, partitions: int) -> Settings | None:
    """Return the settings before the last repartition, if that had the same target; else None."""
    now = await read(settings)
    if not now.splits or now.partitions != partitions:
        return None
    return settings.partitioned(now.splits[-1].partitions, now.generation - 1)


async def _switch(settings: Settings, after: Settings, report: Report, tell: Tell) -> None:
    async with _begun(settings, after.partitions, report) as work:
        await _make_changelogs(after)
        await _change(work, after, tell)


async def give_back(settings: Settings) -> bool:
    """Give up what another command has begun; return whether there was anything to give up."""
    settings = await current_partitioning(settings)
    register = Register(settings)
    try:
        now = await register.start()
        if now.change is None:
            return False
        await register.write(now.changing(None))
        await _delete_changelogs(settings.partitioned(now.partitions, now.generation + 1))
        return True
    finally:
        await register.close()


# -- the frame


@dataclass(slots=True)
class _Work:
    """The register, and the partitioning that it holds."""

    settings: Settings
    register: Register
    now: Partitioning
    report: Report

    async def say(self, change: Change | None) -> None:
        """Write how far the change is, for workers to read."""
        await self.register.write(self.now.changing(change))

    async def switch(self, wanted: Partitioning) -> None:
        """Write the new partitioning.

        If the broker does not answer, find out whether it is written.
        """
        self.report.stage = Stage.ASKED
        try:
            await self.register.write(wanted)
        except NotWrittenError:
            if not await self._stands(wanted):
                self.report.stage = Stage.BEFORE
                raise
        except RegistryError:
            self.report.stage = Stage.BEFORE
            raise
        self.report.stage = Stage.SWITCHED

    async def _stands(self, wanted: Partitioning) -> bool:
        trying = retries.SWITCHING.attempts((NotWrittenError, BrokerUnavailableError))
        # A new producer waits until the broker has committed or aborted the open transaction.
        return (await trying(self.register.start)).generation == wanted.generation


@asynccontextmanager
async def _begun(settings: Settings, partitions: int, report: Report) -> AsyncIterator[_Work]:
    """Hold the register. If the block fails before the switch, restore everything."""
    register = Register(settings)
    try:
        now = await register.start()
        if (why := why_not(now.partitions, partitions)) is not None:
            raise TopicsError(why)
        work = _Work(settings, register, now, report)
        try:
            await work.say(Change(partitions=partitions))
            yield work
        except BaseException:
            if report.stage is Stage.BEFORE:
                await asyncio.shield(_undo(work, partitions))
            raise
    except FencedError:
        raise TopicsError("another command, or a worker, has taken over; nothing changed") from None
    finally:
        await register.close()


async def _undo(work: _Work, partitions: int) -> None:
    try:
        await work.say(None)
    except (RegistryError, KafkaError):
        return  # workers give it up by themselves, or another command has begun
    await _delete_changelogs(work.settings.partitioned(partitions, work.now.generation + 1))


# -- the steps


async def _change(work: _Work, after: Settings, tell: Tell) -> None:
    before, kafka = declare(work.settings), work.settings.kafka
    async with (
        reader(kafka, before.all()) as committed,
        reader(kafka, (), "read_uncommitted") as everything,
    ):
        sources = Sources(before, committed, everything)
        size = await _size(sources)
        tell(f"{size:,} records of changelogs are copied; workers go on")
        with bar(size) as advance:
            committed.advance = advance
            async with copying(kafka, committed, before, declare(after)) as copied:
                while await copied.left() > NEARLY:
                    await copied.catch_up()
                await copied.catch_up()
                await _cut_over(work, sources, copied, tell)


async def _size(sources: Sources) -> int:
    topics = sources.topics
    changelogs = topics.users_changelog, topics.emails_changelog
    return sum([len(of) for topic in changelogs for of in await sources.committed.extents(topic)])


async def _cut_over(work: _Work, sources: Sources, copied: Copying, tell: Tell) -> None:
    held = time.monotonic()
    async with in_time() as limit:
        applied = await drained(sources, copied, work.register, work.now, copied.after, tell)
        before = dict(copied.markers)
        await copied.catch_up()
        require_same(before, copied.markers)
        sealed = await _seal(work.settings, copied)
        await _fence_workers(work.settings)
        # This finds what a worker has committed behind a seal. A worker that commits later has read
        # the seal.
        await copied.catch_up()
        require_same(sealed, copied.markers)
        await copied.finish(applied)
        limit.reschedule(None)
        await work.switch(work.now.split(copied.after, _ends(sources.topics, applied)))
    work.report.rows, work.report.held_seconds = copied.rows, time.monotonic() - held


async def _seal(settings: Settings, copied: Copying) -> Mapping[Place, Marker]:
    """Seal the old changelogs, so that no owner continues them."""
    first = Marker.first(rules(settings.email_keys))
    sealed = {place: copied.markers.get(place, first).sealed() for place in copied.places()}
    written = {
        TP(*place): [(None, MARKER_KEY, marker.encode(), NO_HEADERS)]
        for place, marker in sealed.items()
    }
    producer = FencedProducer(
        settings.kafka,
        command_id(settings.app_id, "repartition"),
        [spec.name for spec in _changelogs(settings)],
    )
    try:
        await producer.start()
        await producer.write(written)
    finally:
        await producer.close()
    return sealed


async def _fence_workers(settings: Settings) -> None:
    """Make every worker read its changelogs again before it can commit anything."""
    cluster = Cluster(settings.kafka, [spec.name for spec in declare(settings).all()])
    try:
        await cluster.start()
        for transactional_id in await worker_ids(cluster, settings.app_id):
            await fence(cluster, transactional_id)
    finally:
        await cluster.close()


def _ends(topics: Topics, following: Following) -> dict[str, list[int]]:
    """Return where the sources end, by topic."""
    numbers = range(topics.users_changelog.partitions)
    users, emails = topics.users_changelog.name, topics.emails_changelog.name
    registrations, claims = topics.user_registrations.name, topics.email_claims.name
    return {
        registrations: [following[users, number][registrations] for number in numbers],
        claims: [following[emails, number][claims] for number in numbers],
    }


# -- the topics, and the workers


def _changelogs(settings: Settings) -> Sequence[TopicSpec]:
    topics = declare(settings)
    return topics.users_changelog, topics.emails_changelog


async def _make_changelogs(settings: Settings) -> None:
    async with connected(settings) as admin:
        await remake(admin, _changelogs(settings))


async def _empty_changelogs(settings: Settings) -> None:
    """Remove all rows, also those of erased users, and leave a seal.

    As long as topics with so many partitions exist, versions that do not know repartitions refuse
    to start, whatever PARTITIONS is.
    """
    await _make_changelogs(settings)
    async with (
        connected(settings),
        AIOKafkaProducer(**settings.kafka.client(), acks="all") as producer,
    ):
        for spec in _changelogs(settings):
            for number in range(spec.partitions):
                seal = Marker.last().encode()
                await producer.send_and_wait(spec.name, seal, MARKER_KEY, number)


async def _delete_changelogs(settings: Settings) -> None:
    async with connected(settings) as admin:
        await delete(admin, [spec.name for spec in _changelogs(settings)])


async def _all_return(settings: Settings) -> bool:
    """Return whether workers own all partitions in time."""
    deadline = time.monotonic() + RETURN_SECONDS
    while await _owned(settings) < settings.partitions:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return True


async def _owned(settings: Settings) -> int:
    """Return how many partitions of ``user-registrations`` have an owner."""
    topic = declare(settings).user_registrations.name
    async with connected(settings) as admin:
        group = await admin.group(settings.app_id)
    return len({tp for owned in group.owned for tp in owned if tp.topic == topic})
