"""Lists of users: in the order of their ids, over partitions and workers, whole or not at all."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from app.domain.errors import InvalidCursorError, NotReadyError, Unavailable
from app.domain.records import UserRow, encode_row
from app.engine.marker import RESERVED_PREFIX
from app.query.listing import Listing, Wanted, cursor_after, id_before
from app.query.routing import Routing
from tables.users import Users
from tests.support.stores import open_store

#: In the order of their UTF-8 bytes, which is not that of UTF-16.
IDS = ["A", "a", "a/b", "ada", "adb", "b", "ü", "\uff5e", "𝄞"]


def row(user_id: str) -> bytes:
    """Return the row of a user who is pending."""
    return encode_row(
        UserRow(
            id=user_id,
            name="Ada",
            email="ada@example.com",
            status="pending",
            registered_at="2026-01-01T00:00:00.000Z",
            updated_at="2026-01-01T00:00:00.000Z",
            version=1,
            position="AQAAAAAAAAAAAAAAAAAA",
        )
    )


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    """Return the ids in turn in three partitions, with rows beside them that are no users."""
    store = open_store(tmp_path)
    for partition in range(3):
        store.open(partition)
        rows = {user_id.encode(): row(user_id) for user_id in IDS[partition::3]}
        store.apply(partition, {**rows, RESERVED_PREFIX + b"recent": b"[]"}, 7)
    yield Users(store, "user-registrations")
    store.close(range(3))


class Group:
    """Workers, as one of them sees them: its own partitions, and the others' answers."""

    partitions = 3

    def __init__(self, here: list[int], **others: Mapping[str, Any] | int) -> None:
        self._here = here
        self._others = others
        self.stale: dict[int, float] = {}
        self.asked: list[tuple[str, str]] = []

    def all_here(self) -> list[int]:
        """Return the partitions of this worker."""
        return self._here

    def why_not_here(self, partition: int) -> Unavailable | None:
        """Return that no partition is this worker's."""
        return None

    def owners_elsewhere(self, partitions: Collection[int]) -> set[str]:
        """Return all others, who must be asked for something."""
        assert partitions
        return set(self._others)

    def other_workers(self) -> set[str]:
        """Return all others."""
        return set(self._others)

    def stale_seconds(self, partition: int) -> float:
        """Return for how long a partition of this worker may lack something."""
        return self.stale.get(partition, 0.0)

    async def ask(self, url: str, path: str) -> tuple[int, bytes]:
        """Return what another answers; a number is a status without a list."""
        self.asked.append((url, path))
        answer = self._others[url]
        if answer == 0:
            raise NotReadyError(Unavailable.OWNER_UNREACHABLE)
        return (answer, b"{}") if isinstance(answer, int) else (200, orjson.dumps(answer))


def listing(users: Users, group: Group) -> Listing:
    """Return the lists of a worker."""
    return Listing(users, cast(Routing, group))


def part(*ids: str, partitions: list[int], **more: str) -> dict[str, Any]:
    """Return what another worker answers."""
    listed = [orjson.loads(row(user_id)) for user_id in ids]
    return {"users": listed, "partitions": partitions, **more}


async def test_all_partitions_are_one_list_in_order(users: Users) -> None:
    page = await listing(users, Group([0, 1, 2])).page(Wanted())
    assert [user.id for user in page.users] == IDS
    assert not page.has_more


@pytest.mark.parametrize("limit", range(1, len(IDS) + 2))
async def test_pages_follow_one_another_without_gap_or_overlap(users: Users, limit: int) -> None:
    found: list[str] = []
    after_id: str | None = None
    for _ in IDS:
        page = await listing(users, Group([0, 1, 2])).page(Wanted("", limit, after_id))
        found += [user.id for user in page.users]
        if not page.has_more:
            break
        assert len(page.users) == limit
        after_id = id_before(page.cursor())
    assert found == IDS


@pytest.mark.parametrize(
    ("prefix", "after_id", "ids"),
    [
        ("a", None, ["a", "a/b", "ada", "adb"]),
        ("ad", "ada", ["adb"]),
        ("ad", "a", ["ada", "adb"]),
        ("ad", "b", []),
        ("ü", None, ["ü"]),
        ("zz", None, []),
        ("", "adaa", ["adb", "b", "ü", "\uff5e", "𝄞"]),
    ],
)
async def test_a_prefix_and_what_it_begins_after(
    users: Users, prefix: str, after_id: str | None, ids: list[str]
) -> None:
    page = await listing(users, Group([0, 1, 2])).page(Wanted(prefix, 10, after_id))
    assert ([user.id for user in page.users], page.has_more) == (ids, False)


async def test_a_list_is_that_of_all_workers(users: Users) -> None:
    group = Group([0, 2], other=part("a", "adb", "\uff5e", partitions=[1]))
    page = await listing(users, group).page(Wanted("", 5))
    assert ([user.id for user in page.users], page.has_more) == (IDS[:5], True)
    assert group.asked == [("other", "/users?prefix=&limit=5")]


async def test_another_worker_has_more(users: Users) -> None:
    """Although all that came fits in the page."""
    group = Group([], other=part("a", partitions=[0, 1, 2], next="x"))
    assert (await listing(users, group).page(Wanted("", 1))).has_more


async def test_the_others_are_asked_for_what_this_one_was(users: Users) -> None:
    group = Group([0], other=part(partitions=[1, 2]))
    await listing(users, group).page(Wanted("a/ü", 3, "a b"))
    cursor = cursor_after("a b")
    assert group.asked == [("other", f"/users?prefix=a%2F%C3%BC&limit=3&cursor={cursor}")]


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"other": 0},
        {"other": 503},
        {"other": part("a", partitions=[])},
        {"one": part("a", partitions=[1]), "two": 0},
    ],
)
async def test_there_is_no_list_without_all_partitions(
    users: Users, others: Mapping[str, Any]
) -> None:
    with pytest.raises(NotReadyError):
        await listing(users, Group([0], **others)).page(Wanted())


async def test_a_partition_that_moves_meanwhile_is_told_of_once(users: Users) -> None:
    group = Group([0, 1], other=part(*IDS[1::3], *IDS[2::3], partitions=[1, 2]))
    page = await listing(users, group).page(Wanted())
    assert [user.id for user in page.users] == IDS


async def test_a_list_is_as_stale_as_its_stalest_part(users: Users) -> None:
    group = Group([0, 1], other={**part(*IDS[2::3], partitions=[2]), "stale_seconds": 2.5})
    group.stale[1] = 1.5
    page = await listing(users, group).page(Wanted())
    assert ([user.id for user in page.users], page.stale_seconds) == (IDS, 2.5)


async def test_of_two_that_tell_of_a_partition_the_fresher_one_counts(users: Users) -> None:
    told = part("a", partitions=[1, 2])
    told["users"][0]["name"] = "New"
    group = Group([0, 1], other=told)
    group.stale[1] = 1.5
    page = await listing(users, group).page(Wanted("a", 1))
    assert [user.name for user in page.users] == ["New"]


async def test_another_worker_is_told_of_this_one_only(users: Users) -> None:
    group = Group([1])
    page = await listing(users, group).page(Wanted(), forwarded=True)
    assert ([user.id for user in page.users], page.partitions) == (IDS[1::3], frozenset({1}))
    assert not group.asked


@pytest.mark.parametrize("user_id", ["a", "ab", "abc", ".", "ü/?", "𝄞" * 128])
def test_a_cursor_stands_for_an_id(user_id: str) -> None:
    cursor = cursor_after(user_id)
    assert id_before(cursor) == user_id
    assert cursor.replace("-", "a").replace("_", "a").isalnum()


@pytest.mark.parametrize("cursor", ["", "=", "a", "ü", "_w", "AA", "\ud800", "YQ YQ"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        id_before(cursor)
