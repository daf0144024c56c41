"""The order in which a registry is repartitioned.

Until the new partitioning is written, everything can be given up: workers go on as before. From
then on, everything that is left is what any worker does that starts: topics grow to what is
declared.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError

from app.engine.marker import MARKER_KEY
from app.engine.transactions import FencedProducer
from app.errors import FencedError, RegistryError, TopicsError
from app.partitioning import Change, Partitioning, Register, Step, standing
from app.progress import bar
from app.reading import Extent, reader
from app.repartition.copying import Copying, Place, copying, require_same
from app.repartition.homes import why_not
from app.repartition.quiet import Following, Sources
from app.settings import Settings
from app.topics import Topics, TopicSpec, connected, declare, delete, ensure, remake

#: Writes are held once so few offsets are left to copy.
NEARLY = 20_000
#: How long writes may be held, at most; workers go on by themselves some time later.
HOLD_SECONDS = 25.0
#: How long registrations must not have grown to be sure that no worker writes any more.
STILL_SECONDS = 0.3
#: Somebody else may write to the topic without end; it is not waited for longer.
MAX_STILL_SECONDS = 3.0
#: How long workers may take to come back.
RETURN_SECONDS = 60.0
LOOK_SECONDS = 0.05

#: Is told what is done now, in words.
Tell = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """What was done."""

    before: int
    after: int
    rows: int = 0
    #: For how long workers were asked to hold writes, in seconds.
    held_seconds: float = 0.0
    seconds: float = 0.0
    have_returned: bool = False


async def repartition(settings: Settings, partitions: int, tell: Tell) -> Report:
    """Give a registry more partitions; raise `RegistryError` if it stays as it was."""
    settings = await standing(settings)
    began = time.monotonic()
    async with _begun(settings, partitions) as work:
        report = Report(work.now.partitions, partitions)
        after = settings.partitioned(partitions, work.now.generation + 1)
        await _make_changelogs(after)
        await _change(work, after, report, tell)
    tell("topics grow; workers start anew")
    await ensure(after)
    report.have_returned = await _all_return(after)
    if report.have_returned:
        # They hold what the new ones do, erased users for ever: nobody would compact them.
        await _delete_changelogs(settings)
    report.seconds = time.monotonic() - began
    return report


async def give_back(settings: Settings) -> bool:
    """Give up what another command has begun; return whether there was anything."""
    settings = await standing(settings)
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
    """The register, and what stands in it."""

    settings: Settings
    register: Register
    now: Partitioning
    is_done: bool = False

    async def say(self, change: Change | None) -> None:
        """Tell workers how far the change is."""
        await self.register.write(self.now.changing(change))


@asynccontextmanager
async def _begun(settings: Settings, partitions: int) -> AsyncIterator[_Work]:
    """Hold the register; however it ends before it is done, everything is as it was."""
    register = Register(settings)
    try:
        now = await register.start()
        if (why := why_not(now.partitions, partitions)) is not None:
            raise TopicsError(why)
        work = _Work(settings, register, now)
        try:
            await work.say(Change(partitions=partitions))
            yield work
        except BaseException:
            if not work.is_done:
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
        return  # workers give it up by themselves, or somebody else has begun
    await _delete_changelogs(work.settings.partitioned(partitions, work.now.generation + 1))


# -- the steps


async def _change(work: _Work, after: Settings, report: Report, tell: Tell) -> None:
    before, kafka = declare(work.settings), work.settings.kafka
    async with (
        reader(kafka, before.all()) as committed,
        reader(kafka, (), "read_uncommitted") as everything,
    ):
        sources = Sources(before, committed, everything)
        size = await _size(sources)
        tell(f"{size:,} records of changelogs are copied; workers go on")
        with bar(size) as advance:
            async with copying(kafka, before, declare(after), advance) as copied:
                while await copied.left() > NEARLY:
                    await copied.copy_some()
                await copied.catch_up()
                tell("writes are held")
                await _cut_over(work, sources, copied, report)


async def _size(sources: Sources) -> int:
    topics = sources.topics
    changelogs = topics.users_changelog, topics.emails_changelog
    return sum([len(of) for topic in changelogs for of in await sources.committed.extents(topic)])


async def _cut_over(work: _Work, sources: Sources, copied: Copying, report: Report) -> None:
    held = time.monotonic()
    applied = await _drained(work, sources, copied, held)
    async with _fenced(work.settings, copied) as producers:
        before = dict(copied.markers)
        await copied.catch_up()
        require_same(before, copied.markers)
        await _seal(producers, copied)
        await copied.finish(applied)
        _require_in_time(held)
        await work.register.write(work.now.split(copied.after, _ends(sources.topics, applied)))
        work.is_done = True
    report.rows, report.held_seconds = copied.rows, time.monotonic() - held


def _require_in_time(held: float) -> None:
    if time.monotonic() - held > HOLD_SECONDS:
        raise TopicsError(
            f"it took longer than {HOLD_SECONDS:.0f} s until everything was applied; "
            "nothing changed, try again while less is written"
        )


async def _drained(work: _Work, sources: Sources, copied: Copying, held: float) -> Following:
    """Let workers refuse writes, and apply all that there is; return what follows."""
    await work.say(Change(partitions=copied.after, step=Step.HOLDING))
    registrations = await _when_still(sources)
    ends = tuple(extent.end for extent in registrations)
    await work.say(Change(partitions=copied.after, step=Step.DRAINING, ends=ends))
    last: Following | None = None
    while True:
        _require_in_time(held)
        await copied.catch_up()
        following = await sources.following(copied.markers, registrations)
        if following is not None and following == last:
            return following
        last = following
        await asyncio.sleep(0 if following else LOOK_SECONDS)


async def _when_still(sources: Sources) -> Sequence[Extent]:
    """Return where registrations end once they do not grow any more, or not for long."""
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


@asynccontextmanager
async def _fenced(
    settings: Settings, copied: Copying
) -> AsyncIterator[Mapping[Place, FencedProducer]]:
    """Own all partitions: no worker can apply anything any more."""
    producers = {
        (topic, number): FencedProducer(
            settings.kafka, f"{settings.app_id}-{copied.tables[topic]}-{number}"
        )
        for topic, number in copied.places()
    }
    try:
        await asyncio.gather(*(producer.start() for producer in producers.values()))
        yield producers
    finally:
        await asyncio.gather(*(producer.close() for producer in producers.values()))


async def _seal(producers: Mapping[Place, FencedProducer], copied: Copying) -> None:
    """Let whoever opens a partition of the old changelogs see that it ends there."""
    await asyncio.gather(
        *(
            producers[place].commit(*place, {MARKER_KEY: marker.sealed().encode()}, {})
            for place, marker in copied.markers.items()
        )
    )


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


async def _delete_changelogs(settings: Settings) -> None:
    async with connected(settings) as admin:
        await delete(admin, [spec.name for spec in _changelogs(settings)])


async def _all_return(settings: Settings) -> bool:
    """Return whether workers own all partitions within a time, or there are no workers."""
    topic = declare(settings).user_registrations
    deadline = time.monotonic() + RETURN_SECONDS
    while time.monotonic() < deadline:
        async with connected(settings) as admin:
            if await _are_back(admin, settings.app_id, topic):
                return True
        await asyncio.sleep(LOOK_SECONDS)
    return False


async def _are_back(admin: AIOKafkaAdminClient, group: str, topic: TopicSpec) -> bool:
    (answer,) = await admin.describe_consumer_groups([group])
    (told,) = answer.to_object()["groups"]
    if told["state"] in ("Empty", "Dead"):
        return True
    assigned = {
        tp.partition
        for member in told["members"]
        if member["member_assignment"]
        for tp in ConsumerProtocolMemberAssignment.decode(member["member_assignment"]).partitions()
        if tp.topic == topic.name
    }
    return len(assigned) == topic.partitions
