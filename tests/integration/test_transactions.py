"""Transactions, changelog and store on a real broker: fenced, whole, and brought up to date."""

import asyncio
import gc
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from app.connection import Connection
from app.engine.changelog import Changelog
from app.engine.lean import NO_HEADERS
from app.engine.marker import MARKER_KEY, Marker
from app.engine.transactions import MAX_BATCH_BYTES, FencedProducer
from app.errors import ApplyError, FencedError, NotReadyError
from app.records import Outgoing
from local.broker import Broker
from tables.store import PartitionedStore
from tests import kafka
from tests.worker import wait_until

PARTITIONS = 2


@dataclass
class World:
    """A changelog, another topic, and a store, all new."""

    brokers: str
    admin: AIOKafkaAdminClient
    folder: Path
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def __post_init__(self) -> None:
        self.topic, self.other = f"{self.name}-changelog", f"{self.name}-other"
        self.marker = Marker.first()
        app = cast(Any, SimpleNamespace(conf=SimpleNamespace(tabledir=self.folder), loop=None))
        table = cast(Any, SimpleNamespace(name="users"))
        self.store = PartitionedStore("registry://", app, table)
        self.changelog = Changelog(Connection(self.brokers), self.topic, self.store)
        self.producers: list[FencedProducer] = []
        self.seen: list[tuple[int, int]] = []

    async def create(self, *topics: str) -> None:
        """Make topics, with small limits."""
        config = {"cleanup.policy": "compact"}
        await self.admin.create_topics([NewTopic(t, PARTITIONS, 1, None, config) for t in topics])

    async def owner(self) -> FencedProducer:
        """Return a producer that has fenced the ones before."""
        producer = FencedProducer(Connection(self.brokers), f"{self.name}-users-0")
        self.producers.append(producer)
        await producer.start()
        return producer

    async def commit(self, owner: FencedProducer, *keys: str, value: bytes = b"row") -> int:
        """Commit rows and the marker that follows them, and tell of each in the other topic."""
        told = {(self.other, 1): [(None, key.encode(), b"told", NO_HEADERS) for key in keys]}
        return await owner.commit(self.topic, 0, self.rows(*keys, value=value), told)

    def rows(self, *keys: str, value: bytes = b"row") -> dict[bytes, bytes | None]:
        """Return rows and the marker that follows them."""
        self.marker = self.marker.after("source", self.marker.next.get("source", 0) + len(keys))
        rows: dict[bytes, bytes | None] = {key.encode(): value for key in keys}
        return {**rows, MARKER_KEY: self.marker.encode()}

    async def recover(self) -> Marker:
        """Bring the store up to date, noting what it reads."""
        self.seen.clear()
        async with asyncio.timeout(20):
            recovered = await self.changelog.recover(
                0, [self.other], lambda rows, left: self.seen.append((rows, left))
            )
        assert recovered.marker is not None
        return recovered.marker

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


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    """Return a new world; nothing that fails in it may be left for asyncio to log."""
    gc.collect()
    untold: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: untold.append(told))
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    made = World(broker.address, admin, tmp_path)
    await made.create(made.topic, made.other)
    yield made
    for producer in made.producers:
        await producer.close()
    made.producers.clear()
    made.store.close(range(PARTITIONS))
    await admin.close()
    gc.collect()
    # What else is found may be of tests before this one.
    assert not [told for told in untold if "never retrieved" in told["message"]]


async def test_what_is_committed_is_recovered_past_control_records(world: World) -> None:
    owner = await world.owner()
    for number in range(5):
        await world.commit(owner, f"user-{number}", f"other-{number}")
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


async def test_an_owner_that_was_replaced_commits_nothing(world: World) -> None:
    zombie = await world.owner()
    await world.commit(zombie, "before")
    owner = await world.owner()
    with pytest.raises(FencedError):
        await world.commit(zombie, "late")
    await world.commit(owner, "after")
    await world.recover()
    assert world.store.read_many(0, [b"before", b"late", b"after"]) == [b"row", None, b"row"]
    told = [message.key() for message in kafka.read_all(world.brokers, world.other)]
    assert told == [b"before", b"after"]


async def test_what_an_owner_left_open_is_gone_when_the_next_has_started(world: World) -> None:
    zombie = await world.owner()
    await world.commit(zombie, "before")
    assert zombie._kafka is not None
    await zombie.send([Outgoing(world.topic, 0, b"open", b"row")])
    await zombie.send([Outgoing(world.topic, 0, MARKER_KEY, world.marker.encode())])
    owner = await world.owner()
    assert (await world.recover()).next == {"source": 1}
    assert world.store.read_many(0, [b"before", b"open"]) == [b"row", None]
    with pytest.raises(FencedError):
        await world.commit(zombie, "late")
    await world.commit(owner, "after")
    await world.recover()
    assert world.store.read_many(0, [b"open", b"after"]) == [None, b"row"]


async def test_records_that_are_sent_first_belong_to_the_transaction(world: World) -> None:
    owner = await world.owner()
    (first,) = await owner.send([Outgoing(world.other, 1, b"first", b"told", 1_700_000_000_000)])
    assert kafka.read_all(world.brokers, world.other) == []
    await world.commit(owner, "then")
    told = kafka.read_all(world.brokers, world.other)
    assert [message.key() for message in told] == [b"first", b"then"]
    assert (told[0].offset(), told[0].timestamp()[1]) == (first, 1_700_000_000_000)


async def test_a_batch_over_the_size_of_a_request_is_one_transaction_all_the_same(
    world: World,
) -> None:
    owner = await world.owner()
    keys = [f"user-{number}" for number in range(1000)]
    row = bytes(5 * MAX_BATCH_BYTES // len(keys))
    last = await world.commit(owner, *keys, value=row)
    assert last == len(keys)
    await world.recover()
    assert world.store.read_many(0, [k.encode() for k in keys]) == [row] * len(keys)


async def test_a_row_that_the_broker_never_takes_has_a_clear_cause(world: World) -> None:
    owner = await world.owner()
    with pytest.raises(ApplyError, match="too large"):
        await world.commit(owner, "huge", value=bytes(3 * 1024 * 1024))


async def test_a_producer_that_is_closed_leaves_no_connection(world: World) -> None:
    for moment in range(20):
        owner = await world.owner()
        kafka = owner._kafka
        assert kafka is not None
        writing = asyncio.create_task(world.commit(owner, "row"))
        await asyncio.wait([writing], timeout=moment / 2000)
        await owner.close()
        assert not [each for each in kafka.client._conns.values() if each.connected()]
        writing.cancel()
        await asyncio.wait([writing])


async def test_a_store_of_a_topic_that_was_made_anew_is_rebuilt_alone(world: World) -> None:
    owner = await world.owner()
    await world.commit(owner, *(f"old-{number}" for number in range(10)))
    await world.recover()
    world.store.open(1)
    world.store.apply(1, {b"neighbour": b"row"}, 0)
    await world.admin.delete_topics([world.topic])
    await recreate(world)
    owner = await world.owner()
    world.marker = Marker.first()
    for number in range(10):  # longer than the old one: the offset alone tells nothing
        await world.commit(owner, f"new-{number}")
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
    wait_until(
        lambda: kafka.end_offsets(world.brokers, world.topic) == dict.fromkeys(range(2), 0),
        10,
        "the topic is there again",
    )


async def test_a_store_ahead_of_its_changelog_is_rebuilt(world: World) -> None:
    owner = await world.owner()
    await world.commit(owner, "a")
    await world.recover()
    world.store.apply(0, {b"ghost": b"row", MARKER_KEY: world.marker.encode()}, 1_000)
    await world.recover()
    assert world.store.read_many(0, [b"a", b"ghost"]) == [b"row", None]


async def test_a_store_whose_log_begins_later_is_rebuilt(world: World) -> None:
    owner = await world.owner()
    await world.commit(owner, "a")
    await world.recover()
    await world.commit(owner, "b")
    await world.commit(owner, "c")
    end = kafka.end_offsets(world.brokers, world.topic)[0]
    await delete_until(world, world.topic, end - 3)
    await world.recover()
    # What the changelog has no longer is gone here as well: a store is no second truth.
    assert world.store.read_many(0, [b"a", b"c"]) == [None, b"row"]


async def delete_until(world: World, topic: str, offset: int) -> None:
    """Delete the beginning of a partition, compacted as its topic is."""
    tp = TopicPartition(topic, 0)
    kafka.alter_config(world.brokers, topic, {"cleanup.policy": "compact,delete"})
    await world.admin.delete_records({tp: RecordsToDelete(before_offset=offset)})


async def test_a_standby_follows_and_needs_no_rebuild(world: World) -> None:
    owner = await world.owner()
    await world.commit(owner, "a")
    following = asyncio.create_task(world.changelog.follow([0, 1]))
    try:
        await world.commit(owner, "b")
        async with asyncio.timeout(10):
            while not world.holds(b"b"):
                await asyncio.sleep(0.02)
    finally:
        following.cancel()
        await asyncio.wait([following])
    assert world.store.read(0, b"b") == b"row"
    assert await world.recover() == world.marker
    assert world.rows_read == 0
