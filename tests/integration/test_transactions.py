"""Transactions, barrier, changelog and store on a real broker: fenced, whole, and up to date."""

import asyncio
import gc
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import TopicPartition
from faust.types import TP

from app.config.connection import Connection
from app.domain.errors import (
    FencedError,
    LostChangelogError,
    NotReadyError,
    NotWrittenError,
    ReplacedError,
    TooLargeError,
)
from app.engine.barrier import Barrier
from app.engine.changelog import Changelog, Reading
from app.engine.marker import MARKER_KEY, Marker
from app.kafka import protocol
from app.kafka.cluster import Cluster
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.transactional_ids import TransactionalId, worker_id
from app.kafka.transactions import (
    COMPRESSIONS,
    MAX_BATCH_BYTES,
    FencedProducer,
    Member,
    ProducerFencedError,
    Sendings,
    TransactionalProducer,
)
from local.broker import Broker
from tables.store import MAX_IDLE_SECONDS
from tests.support import kafka
from tests.support.stores import open_store
from tests.support.transactions import held_before_end

PARTITIONS = 2
#: Longer than anything here takes: what is ended before was ended by somebody.
TRANSACTION_TIMEOUT_MS = 30_000


@dataclass
class World:
    """A changelog, a source, another topic, a group and a store, all new."""

    brokers: str
    admin: AIOKafkaAdminClient
    folder: Path
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def __post_init__(self) -> None:
        self.topic, self.other = f"{self.name}-changelog", f"{self.name}-other"
        self.source = f"{self.name}-source"
        self.marker = Marker.first()
        self.store = open_store(self.folder)
        self.changelog = Changelog(self.topic, self.store)
        self.connection = Connection(self.brokers)
        self.cluster = Cluster(self.connection, [self.topic, self.other, self.source])
        self.reading = Reading(self.cluster, Barrier(self.cluster, self.name))
        self.clusters: list[Cluster] = []
        self.fenced_producers: list[FencedProducer] = []
        self.seen: list[tuple[int, int]] = []

    async def create(self, *topics: str) -> None:
        """Make topics."""
        config = {"cleanup.policy": "compact"}
        await self.admin.create_topics([NewTopic(t, PARTITIONS, 1, None, config) for t in topics])
        # The broker knows of a topic before it takes records of it.
        places = [TP(topic, number) for topic in topics for number in range(PARTITIONS)]
        async with asyncio.timeout(20):
            while not await self._are_led(places):
                await asyncio.sleep(0.05)

    async def _are_led(self, partitions: Iterable[TP]) -> bool:
        try:
            await self.cluster.start()
            await self.cluster.ends(partitions)
        except KafkaError:
            return False
        return True

    # -- writing

    async def producer(
        self, name: str = "worker-1", compression: str = "none"
    ) -> TransactionalProducer:
        """Return the producer of a worker, with a connection of its own."""
        cluster = Cluster(self.connection, [self.topic, self.other])
        self.clusters.append(cluster)
        await cluster.start()
        producer = TransactionalProducer(
            cluster,
            self.connection,
            worker_id(self.name, name),
            TRANSACTION_TIMEOUT_MS,
            COMPRESSIONS[compression],
        )
        await producer.start()
        return producer

    async def fenced_producer(self, name: str = "command") -> FencedProducer:
        """Return a command's producer, which has fenced the ones before."""
        producer = FencedProducer(self.connection, f"{self.name}-{name}", [self.topic])
        self.fenced_producers.append(producer)
        await producer.start()
        return producer

    def transaction(self, *keys: str, value: bytes = b"row") -> tuple[Sendings, Mapping[TP, int]]:
        """Return rows with the marker behind them, of which the other topic is told."""
        applied = self.marker.next.get(self.source, 0) + len(keys)
        marker = self.marker.after(self.source, applied)
        rows: list[ToWrite] = [(None, key.encode(), value, NO_HEADERS) for key in keys]
        rows.append((None, MARKER_KEY, marker.encode(), NO_HEADERS))
        told: list[ToWrite] = [(None, key.encode(), b"told", NO_HEADERS) for key in keys]
        offsets = {TP(self.source, 0): applied}
        return {TP(self.topic, 0): rows, TP(self.other, 1): told}, offsets

    async def commit(
        self,
        producer: TransactionalProducer,
        member: Member | None,
        *keys: str,
        value: bytes = b"row",
    ) -> Mapping[TP, int]:
        """Commit rows and their marker; return the offset of the last record of each partition."""
        sendings, offsets = self.transaction(*keys, value=value)
        written = await producer.commit(member, sendings, offsets)
        self.marker = self.marker.after(self.source, offsets[TP(self.source, 0)])
        return {tp: span[-1] for tp, span in written.items()}

    async def leave_open(
        self, producer: TransactionalProducer, member: Member | None, *keys: str
    ) -> None:
        """Write all of a transaction but its end."""
        transaction = self.transaction(*keys)
        with without_end(), pytest.raises(NotWrittenError):
            await producer.commit(member, *transaction)

    # -- reading

    async def recover(self) -> Marker | None:
        """Bring the store up to date, noting what it reads."""
        async with asyncio.timeout(20):
            while True:
                self.seen.clear()
                try:
                    return await self.changelog.recover(
                        self.reading, 0, [self.source], lambda *seen: self.seen.append(seen)
                    )
                except KafkaError:  # a broker that has just begun does not coordinate yet
                    await asyncio.sleep(0.1)

    def holds(self, key: bytes) -> bool:
        """Return whether the store is open and has a row."""
        try:
            return self.store.read(0, key) is not None
        except NotReadyError:
            return False

    @property
    def rows_read(self) -> int:
        """How many records the last recovery read."""
        return sum(rows for rows, _ in self.seen)

    def told(self) -> list[bytes | None]:
        """Return the keys that the other topic was told of."""
        return [message.key() for message in kafka.read_all(self.brokers, self.other)]

    # -- the group

    @asynccontextmanager
    async def in_group(self, name: str = "worker-1") -> AsyncIterator["GroupMember"]:
        """Join the group; leave it at the end, as static members do not by themselves."""
        consumer = AIOKafkaConsumer(
            self.source,
            bootstrap_servers=self.brokers,
            group_id=self.name,
            group_instance_id=name,
            enable_auto_commit=False,
            session_timeout_ms=6_000,
            heartbeat_interval_ms=200,
        )
        await consumer.start()
        try:
            yield GroupMember(consumer)
        finally:
            await consumer.stop()


@dataclass
class GroupMember:
    """A worker in its group."""

    consumer: Any

    @property
    def now(self) -> Member:
        """As what it is in the group at the moment."""
        of = self.consumer._coordinator
        return Member(of.group_id, of.generation, of.member_id, of._group_instance_id)

    async def after(self, before: Member) -> Member:
        """Wait until the group has another generation; return as what it is in it."""
        async with asyncio.timeout(20):
            while self.now.generation <= before.generation or not self.consumer.assignment():
                await self.consumer.getmany(timeout_ms=50)
        return self.now


@contextmanager
def without_end(*, is_sent: bool = False) -> Iterator[None]:
    """Let the last step of transactions fail: it is not sent, or its answer is lost."""
    coordinate = TransactionalId.coordinate

    async def failing(self: TransactionalId, request: Any) -> Any:
        if getattr(request, "struct", None) is not protocol.EndTxn:
            return await coordinate(self, request)
        if is_sent:
            await coordinate(self, request)
        raise KafkaConnectionError("the connection is lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionalId, "coordinate", failing)
        yield


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    """Return a new world; nothing that fails in it may be left for asyncio to log."""
    gc.collect()
    untold: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: untold.append(told))
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    made = World(broker.address, admin, tmp_path)
    await made.create(made.topic, made.other, made.source)
    yield made
    for cluster in [made.cluster, *made.clusters]:
        await cluster.close()
    for producer in made.fenced_producers:
        await producer.close()
    made.store.close(range(PARTITIONS))
    await admin.close()
    gc.collect()
    # What else is found may be of tests before this one.
    assert not [told for told in untold if "never retrieved" in told["message"]]


# -- recovering


async def test_what_is_committed_is_recovered_past_control_records(world: World) -> None:
    producer = await world.producer()
    for number in range(5):
        await world.commit(producer, None, f"user-{number}", f"other-{number}")
    assert await world.recover() == world.marker
    assert world.rows_read == 5 * 3
    assert world.store.read(0, b"user-4") == b"row"
    offset = world.store.offset(0)
    assert offset is not None
    assert offset + 1 == kafka.end_offsets(world.brokers, world.topic)[0]
    # Nothing new: nothing is read, and it takes no time.
    began = time.monotonic()
    assert await world.recover() == world.marker
    assert world.rows_read == 0
    assert time.monotonic() - began < 2


async def test_the_offsets_that_a_commit_returns_are_those_of_its_last_records(
    world: World,
) -> None:
    producer = await world.producer()
    await world.commit(producer, None, "a")
    written = await world.commit(producer, None, "b", "c")
    # Two records and a control record were before them.
    assert written == {TP(world.topic, 0): 5, TP(world.other, 1): 3}


@pytest.mark.parametrize("compression", list(COMPRESSIONS))
async def test_what_is_compressed_is_read_as_it_was(world: World, compression: str) -> None:
    producer = await world.producer(compression=compression)
    keys = [f"user-{number}" for number in range(500)]
    await world.commit(producer, None, *keys, value=b"row " * 100)
    await world.recover()
    assert world.store.read_many(0, [k.encode() for k in keys]) == [b"row " * 100] * 500
    assert len(world.told()) == 500


# -- the fence of the group


async def test_a_generation_that_is_over_commits_nothing_more(world: World) -> None:
    zombie, owner = await world.producer("worker-1"), await world.producer("worker-2")
    async with world.in_group("worker-1") as first:
        before = first.now
        await world.commit(zombie, before, "before")
        async with world.in_group("worker-2") as second:
            now = await first.after(before)
            with pytest.raises(FencedError):
                await world.commit(zombie, before, "late")
            assert not zombie.is_started
            await world.commit(owner, second.now, "after")
            # Who has heard of the new generation goes on.
            await zombie.start()
            await world.commit(zombie, now, "again")
    await world.recover()
    keys = [b"before", b"late", b"after", b"again"]
    assert world.store.read_many(0, keys) == [b"row", None, b"row", b"row"]
    assert world.told() == [b"before", b"after", b"again"]
    assert kafka.committed(world.brokers, world.name, world.source)[0] == 3


async def test_a_member_that_the_group_does_not_know_commits_nothing(world: World) -> None:
    producer = await world.producer()
    async with world.in_group() as member:
        with pytest.raises(FencedError):
            await world.commit(producer, replace(member.now, instance_id=None, member_id="x"), "a")
        await producer.start()
        future = replace(member.now, generation=member.now.generation + 1)
        with pytest.raises(FencedError):
            await world.commit(producer, future, "a")
        await producer.start()
        await world.commit(producer, member.now, "b")
    assert world.told() == [b"b"]


async def test_a_worker_whose_name_another_has_taken_is_told_so(world: World) -> None:
    producer = await world.producer()
    async with world.in_group("worker-1") as first:
        before = first.now
        async with world.in_group("worker-1"):
            with pytest.raises(ReplacedError, match="WORKER_ID"):
                await world.commit(producer, before, "late")
    assert world.told() == []


# -- the fence of the transactional id


async def test_a_producer_that_was_replaced_commits_nothing(world: World) -> None:
    zombie = await world.producer()
    await world.commit(zombie, None, "before")
    owner = await world.producer()
    with pytest.raises(ProducerFencedError):
        await world.commit(zombie, None, "late")
    await world.commit(owner, None, "after")
    await world.recover()
    assert world.store.read_many(0, [b"before", b"late", b"after"]) == [b"row", None, b"row"]
    assert world.told() == [b"before", b"after"]


async def test_a_command_that_another_has_followed_is_told_so(world: World) -> None:
    first = await world.fenced_producer()
    assert await first.commit(world.topic, 0, {b"a": b"1", b"b": None}) == 1
    second = await world.fenced_producer()
    with pytest.raises(FencedError):
        await first.commit(world.topic, 0, {b"late": b"1"})
    at = TP(world.topic, 0)
    assert await second.write({at: [(None, b"c", b"1", NO_HEADERS)]}) == {at: range(3, 4)}
    records = kafka.read_all(world.brokers, world.topic)
    assert [record.key() for record in records] == [b"a", b"b", b"c"]


async def test_what_a_producer_left_open_is_gone_when_the_next_has_started(world: World) -> None:
    zombie = await world.producer()
    await world.commit(zombie, None, "before")
    await world.leave_open(zombie, None, "open")
    owner = await world.producer()
    assert (await world.recover()) == world.marker
    assert world.store.read_many(0, [b"before", b"open"]) == [b"row", None]
    with pytest.raises(NotWrittenError):
        await world.commit(zombie, None, "late")
    await world.commit(owner, None, "after")
    await world.recover()
    assert world.store.read_many(0, [b"open", b"after"]) == [None, b"row"]


# -- outcomes that nobody knows


@pytest.mark.parametrize("is_sent", [False, True])
async def test_an_unknown_outcome_is_known_once_the_producer_has_started_anew(
    world: World, is_sent: bool
) -> None:
    producer = await world.producer()
    await world.commit(producer, None, "before")
    transaction = world.transaction("perhaps")
    with without_end(is_sent=is_sent), pytest.raises(NotWrittenError, match="may not be committed"):
        await producer.commit(None, *transaction)
    assert not producer.is_started
    with pytest.raises(NotWrittenError, match="not started"):
        await world.commit(producer, None, "too early")
    await producer.start()
    marker = await world.recover()
    assert marker is not None
    assert marker.next[world.source] == (2 if is_sent else 1)
    assert world.store.read(0, b"perhaps") == (b"row" if is_sent else None)
    world.marker = marker
    await world.commit(producer, None, "after")
    assert await world.recover() == world.marker
    assert world.store.read(0, b"after") == b"row"


async def test_one_producer_writes_many_transactions_one_directly_after_the_other(
    world: World,
) -> None:
    """The broker may still be ending the one before."""
    producer = await world.producer()
    async with world.in_group() as member:
        for number in range(50):
            await world.commit(producer, member.now, f"user-{number}")
    await world.recover()
    assert world.store.read_many(0, [b"user-0", b"user-49"]) == [b"row", b"row"]
    assert kafka.committed(world.brokers, world.name, world.source)[0] == 50


# -- what a transaction holds


async def test_records_that_are_sent_first_belong_to_the_transaction(world: World) -> None:
    producer = await world.producer()
    at = TP(world.other, 1)
    first: ToWrite = (1_700_000_000_000, b"first", b"told", NO_HEADERS)
    second: ToWrite = (None, b"second", b"told", NO_HEADERS)
    async with world.in_group() as member:
        assert await producer.send(member.now, {at: [first, second]}) == {at: range(2)}
        assert not producer.is_started
        assert kafka.read_all(world.brokers, world.other) == []
        written = await producer.commit(member.now, *world.transaction("then"))
    assert written[at] == range(2, 3)
    assert producer.is_started
    told = kafka.read_all(world.brokers, world.other)
    assert [message.key() for message in told] == [b"first", b"second", b"then"]
    assert [message.offset() for message in told] == [0, 1, 2]
    assert told[0].timestamp()[1] == 1_700_000_000_000


async def test_a_batch_over_the_size_of_a_request_is_one_transaction_all_the_same(
    world: World,
) -> None:
    producer = await world.producer()
    keys = [f"user-{number}" for number in range(1000)]
    row = bytes(5 * MAX_BATCH_BYTES // len(keys))
    written = await world.commit(producer, None, *keys, value=row)
    assert written[TP(world.topic, 0)] == len(keys)
    await world.recover()
    assert world.store.read_many(0, [k.encode() for k in keys]) == [row] * len(keys)
    await world.commit(producer, None, "next")
    assert await world.recover() == world.marker


async def test_a_row_that_the_broker_never_takes_has_a_clear_cause_and_nothing_is_written(
    world: World,
) -> None:
    producer = await world.producer()
    await world.commit(producer, None, "before")
    with pytest.raises(TooLargeError, match=rf"{world.topic}, partition 0: .*too large"):
        await world.commit(producer, None, "huge", value=bytes(3 * 1024 * 1024))
    await producer.start()
    await world.commit(producer, None, "after")
    assert world.told() == [b"before", b"after"]
    assert await world.recover() == world.marker


async def test_a_producer_that_is_closed_leaves_no_connection(world: World) -> None:
    for moment in range(20):
        owner = await world.fenced_producer()
        assert owner._cluster is not None
        client = owner._cluster._client
        writing = asyncio.create_task(owner.commit(world.topic, 0, {b"row": b"row"}))
        await asyncio.wait([writing], timeout=moment / 2000)
        await owner.close()
        assert not [each for each in client._conns.values() if each.connected()]
        await asyncio.wait([writing])
        writing.exception()


# -- the barrier


async def test_an_open_transaction_of_a_worker_that_has_gone_is_soon_ended(world: World) -> None:
    """Its own time-out is far longer."""
    dead = await world.producer("worker-2")
    async with world.in_group("worker-1") as member:
        # It was a member, and has died with a transaction open, offsets and all.
        await world.leave_open(dead, member.now, "open")
        began = time.monotonic()
        assert await world.recover() is None
        assert 0.9 < time.monotonic() - began < 5
        owner = await world.producer("worker-1")
        await world.commit(owner, member.now, "after")
    assert world.store.read(0, b"open") is None
    with pytest.raises(NotWrittenError):
        await world.commit(dead, None, "late")
    assert await world.recover() == world.marker
    assert world.store.read_many(0, [b"open", b"after"]) == [None, b"row"]


async def test_an_open_transaction_of_a_member_is_waited_for(world: World) -> None:
    """What it commits in the end is recovered, though it was open when the barrier began."""
    owner = await world.producer("worker-1")
    async with world.in_group("worker-1") as member:
        recovered = await recovered_behind(world, world.commit(owner, member.now, "slow"))
        assert recovered == world.marker
    assert world.store.read(0, b"slow") == b"row"


async def recovered_behind(world: World, commit: Awaitable[object]) -> Marker | None:
    """Recover while a commit stands before its end; return the marker, once that has gone on."""
    goes_on, reached_end = asyncio.Event(), asyncio.Event()
    with held_before_end(goes_on, reached_end.set):
        committing = asyncio.ensure_future(commit)
        await asyncio.wait_for(reached_end.wait(), 10)
        recovering = asyncio.create_task(world.recover())
        await asyncio.wait([recovering], timeout=2.5)
        assert not recovering.done()
        goes_on.set()
        await committing
    return await recovering


async def test_a_command_that_is_at_work_is_not_ended_but_waited_for(world: World) -> None:
    command = await world.fenced_producer("repartition")
    rows = {b"a": b"row", MARKER_KEY: world.marker.encode()}
    recovered = await recovered_behind(world, command.commit(world.topic, 0, rows))
    assert recovered == world.marker
    assert world.store.read(0, b"a") == b"row"


# -- stores and changelogs


async def test_a_store_of_a_topic_that_was_made_anew_is_rebuilt_alone(world: World) -> None:
    producer = await world.producer()
    await world.commit(producer, None, *(f"old-{number}" for number in range(10)))
    await world.recover()
    world.store.open(1)
    world.store.apply(1, {b"neighbour": b"row"}, 0)
    await world.admin.delete_topics([world.topic])
    await recreate(world)
    producer = await world.producer()
    world.marker = Marker.first()
    for number in range(10):  # longer than the old one: the offset alone tells nothing
        await world.commit(producer, None, f"new-{number}")
    assert await world.recover() == world.marker
    assert world.store.read_many(0, [b"old-1", b"new-1"]) == [None, b"row"]
    assert world.store.read(1, b"neighbour") == b"row"


async def recreate(world: World) -> None:
    """Make the changelog anew, once Kafka has done away with the old one."""
    gone = time.monotonic() + 10
    while world.topic in await world.admin.list_topics():
        assert time.monotonic() < gone
        await asyncio.sleep(0.05)
    await world.create(world.topic)


async def test_a_store_with_more_than_its_changelog_is_kept_and_the_worker_stops(
    world: World,
) -> None:
    producer = await world.producer()
    await world.commit(producer, None, "a", "b")
    await world.recover()
    await world.admin.delete_topics([world.topic])
    await recreate(world)
    with pytest.raises(LostChangelogError, match="partition 0: the store on this machine has more"):
        await world.recover()
    # A changelog that somebody has begun anew has less, however long it is.
    producer, applied = await world.producer(), world.marker
    world.marker = Marker.first()
    await world.commit(producer, None, *("a" for _ in range(1)), value=b"again")
    await producer.commit(
        None,
        {TP(world.topic, 0): [(None, b"%d" % n, b"row", NO_HEADERS) for n in range(20)]},
        {},
    )
    with pytest.raises(LostChangelogError, match="its changelog is another one"):
        await world.recover()
    world.store.close([0])
    world.store.open(0)
    assert world.store.read_many(0, [b"a", b"b"]) == [b"row", b"row"]
    # Once it has all that was applied, it is the truth again.
    world.marker = world.marker.after(world.source, applied.next[world.source] - 1)
    await world.commit(producer, None, "c")
    assert await world.recover() == world.marker
    assert world.store.read_many(0, [b"a", b"b", b"c"]) == [b"again", None, b"row"]


async def test_a_store_ahead_of_its_changelog_is_rebuilt(world: World) -> None:
    producer = await world.producer()
    await world.commit(producer, None, "a")
    await world.recover()
    world.store.apply(0, {b"ghost": b"row", MARKER_KEY: world.marker.encode()}, 1_000)
    await world.recover()
    assert world.store.read_many(0, [b"a", b"ghost"]) == [b"row", None]


async def test_a_store_whose_log_begins_later_is_rebuilt(world: World) -> None:
    producer = await world.producer()
    await world.commit(producer, None, "a")
    await world.recover()
    await world.commit(producer, None, "b")
    await world.commit(producer, None, "c")
    end = kafka.end_offsets(world.brokers, world.topic)[0]
    await delete_until(world, world.topic, end - 3)
    await world.recover()
    # What the changelog has no longer is gone here as well: a store is no second truth.
    assert world.store.read_many(0, [b"a", b"c"]) == [None, b"row"]


async def test_a_store_that_was_idle_for_too_long_is_rebuilt(world: World) -> None:
    """The changelog may have forgotten deletions that it has never heard of."""
    producer = await world.producer()
    await world.commit(producer, None, "a", "b")
    await world.recover()
    world.store.apply(0, {b"ghost": b"row"}, world.store.offset(0) or 0)
    world.store.close([0])
    long_ago = time.time() - MAX_IDLE_SECONDS - 60
    for path in [world.folder / "users-0", *(world.folder / "users-0").iterdir()]:
        os.utime(path, (long_ago, long_ago))
    assert await world.recover() == world.marker
    assert world.rows_read == 3
    assert world.store.read_many(0, [b"a", b"ghost"]) == [b"row", None]


async def test_the_newest_marker_is_found_behind_many_control_records(world: World) -> None:
    """Transactions that were aborted leave nothing else."""
    producer = await world.producer()
    await world.commit(producer, None, "a")
    await world.recover()
    for _ in range(20):
        await world.leave_open(producer, None, "open")
        await producer.start()
    assert await world.recover() == world.marker
    assert world.rows_read == 0
    assert world.store.read_many(0, [b"a", b"open"]) == [b"row", None]


async def delete_until(world: World, topic: str, offset: int) -> None:
    """Delete the beginning of a partition, compacted as its topic is."""
    tp = TopicPartition(topic, 0)
    kafka.alter_config(world.brokers, topic, {"cleanup.policy": "compact,delete"})
    await world.admin.delete_records({tp: RecordsToDelete(before_offset=offset)})


# -- standbys


async def test_a_standby_follows_and_needs_no_rebuild(world: World) -> None:
    producer = await world.producer()
    await world.commit(producer, None, "a")
    following = asyncio.create_task(world.changelog.follow(world.connection, [0, 1]))
    try:
        await world.commit(producer, None, "b")
        async with asyncio.timeout(10):
            while not world.holds(b"b") or 0 not in world.changelog.complete_at:
                await asyncio.sleep(0.02)
        # An open transaction is not followed, and does not pass for what is committed.
        await world.leave_open(producer, None, "open")
        await asyncio.sleep(0.2)
        assert not world.holds(b"open")
    finally:
        following.cancel()
        await asyncio.wait([following])
    assert world.store.read(0, b"b") == b"row"
    await producer.start()
    assert await world.recover() == world.marker
    assert world.rows_read == 0


async def test_a_standby_that_was_the_owner_waits_for_the_end_of_its_last_commit(
    world: World,
) -> None:
    """A commit is answered before the broker has written its markers: the store is ahead then."""
    producer = await world.producer()
    await world.commit(producer, None, "a")
    await world.recover()
    goes_on, reached_end = asyncio.Event(), asyncio.Event()
    last, offsets = world.transaction("b")
    with held_before_end(goes_on, reached_end.set):
        committing = asyncio.create_task(producer.commit(None, last, offsets))
        await asyncio.wait_for(reached_end.wait(), 10)
        at = TP(world.topic, 0)
        end = (await world.cluster.ends([at]))[at]
        rows = {key or b"": value for _, key, value, _ in last[at]}
        world.store.apply(0, rows, end - 1)
        following = asyncio.create_task(world.changelog.follow(world.connection, [0]))
        try:
            await asyncio.wait([following], timeout=0.5)
            assert not following.done()
            goes_on.set()
            await committing
            await world.commit(producer, None, "c")
            async with asyncio.timeout(10):
                while not world.holds(b"c"):
                    assert not following.done()
                    await asyncio.sleep(0.02)
        finally:
            following.cancel()
            await asyncio.wait([following])
