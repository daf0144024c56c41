"""The newest registrations: newest first, whole as far back as they go, in stable pages."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from app.domain.errors import InvalidCursorError, NotReadyError, Unavailable
from app.domain.records import UserRow, encode_row
from app.query.newest import Newest, NewestUsers, Place, place_before
from app.query.routing import Routing
from tables.recent import RECENT_PER_PARTITION, RecentRegistrations
from tables.store import PartitionedStore
from tables.users import Users
from tests.support.stores import open_store

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def row(user_id: str, minutes: int) -> UserRow:
    """Return the row of a user who registered some minutes after the beginning."""
    at = f"{BEGAN + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%S}.000Z"
    return UserRow(
        id=user_id,
        name="Ada",
        email="ada@example.com",
        status="registered",
        registered_at=at,
        updated_at=at,
        version=1,
        position="AQAAAAAAAAAAAAAAAAAA",
    )


class World:
    """Partitions of one worker, and what others answer."""

    partitions = 3

    def __init__(self, store: PartitionedStore) -> None:
        self.store = store
        self.recent = RecentRegistrations(store)
        self.own = [0, 1, 2]
        self.others: dict[str, Mapping[str, Any] | None] = {}
        self.newest = NewestUsers(self.recent, Users(store, "users"), cast(Routing, self))

    def register(self, partition: int, *rows: UserRow) -> None:
        """Apply registrations."""
        changed = self.recent.changed(partition, rows, (), {})
        users = {each["id"].encode(): encode_row(each) for each in rows}
        self.store.apply(partition, {**users, **changed}, 1)

    def erase(self, partition: int, user_id: str) -> None:
        """Apply an erasure."""
        changed = self.recent.changed(partition, (), {user_id}, {})
        self.store.apply(partition, {user_id.encode(): None, **changed}, 2)

    async def listed(self, limit: int = 100, before: Place | None = None) -> list[str]:
        """Return the ids in a list."""
        return [user.id for user in (await self.newest.all(limit, before)).users]

    def all_here(self) -> list[int]:
        """Return the partitions of this worker."""
        return self.own

    def other_workers(self) -> set[str]:
        """Return all others."""
        return set(self.others)

    async def ask(self, url: str, _path: str) -> tuple[int, bytes]:
        """Return what another one answers."""
        if (answer := self.others[url]) is None:
            raise NotReadyError(Unavailable.OWNER_UNREACHABLE)
        return 200, orjson.dumps(answer)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Return three partitions without users."""
    store = open_store(tmp_path)
    for partition in range(3):
        store.open(partition)
    yield World(store)
    store.close(range(3))


async def test_all_partitions_are_one_list(world: World) -> None:
    for minutes, user_id in enumerate("abcdef"):
        world.register(minutes % 3, row(user_id, minutes))
    assert await world.listed() == list("fedcba")
    assert await world.listed(2) == ["f", "e"]


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7])
async def test_pages_follow_one_another_though_others_register(world: World, limit: int) -> None:
    for minutes, user_id in enumerate("abcdef"):
        world.register(minutes % 3, row(user_id, minutes // 2))  # two at a time
    found: list[str] = []
    before: Place | None = None
    for number in range(10):
        page = await world.newest.all(limit, before)
        found += [user.id for user in page.users]
        if not page.has_more:
            break
        before = place_before(Place.of(page.users[-1]).cursor())
        world.register(0, row(f"later-{number}", 60 + number))
    assert found == list("fedcba")


async def test_the_list_ends_where_a_partition_has_forgotten_some(world: World) -> None:
    busy = [row(f"busy-{n:03}", 10 + n) for n in range(RECENT_PER_PARTITION + 5)]
    world.register(0, *busy)
    world.register(1, row("old", 1), row("young", 100))
    listed = await world.listed()
    assert listed == ["young", *(each["id"] for each in busy[:4:-1])]
    assert "old" not in listed  # between it and the others there were more


async def test_what_is_erased_is_gone_and_hides_no_gap(world: World) -> None:
    world.register(0, *(row(f"busy-{n:03}", 10 + n) for n in range(RECENT_PER_PARTITION + 5)))
    world.register(1, row("old", 1))
    world.erase(0, "busy-024")
    listed = await world.listed()
    assert listed[0] == "busy-023"
    assert len(listed) == RECENT_PER_PARTITION - 1
    assert "old" not in listed
    assert "busy-024" not in [known.id for known in world.recent.newest(0)]


async def test_partitions_that_nobody_tells_of_are_named(world: World) -> None:
    world.own = [0]
    world.register(0, row("here", 1))
    there = {**row("there", 2), "position": "AQAAAAAAAAAAAAAAAAAA"}
    world.others = {
        "http://a": {"users": [there], "partitions": [1], "forgotten": None},
        "http://b": None,
    }
    told = await world.newest.all(100, None)
    assert [user.id for user in told.users] == ["there", "here"]
    assert (told.unavailable, told.missing) == (["http://b"], [2])


async def test_another_worker_tells_how_far_back_it_goes(world: World) -> None:
    world.own = [0]
    world.register(0, row("old", 1))
    at = (BEGAN + timedelta(minutes=5)).isoformat()
    world.others = {
        "http://a": {"users": [row("there", 5)], "partitions": [1, 2], "forgotten": [at, "there"]}
    }
    assert await world.listed() == ["there"]


async def test_without_anything_there_is_an_empty_list(world: World) -> None:
    assert await world.newest.all(10, None) == Newest([], [], frozenset({0, 1, 2}), [], None)


@pytest.mark.parametrize("cursor", ["", "x", "W10", "WyIyMDI2LTAxLTAxIiwgImEiXQ", "é", "W" * 9])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        place_before(cursor)
