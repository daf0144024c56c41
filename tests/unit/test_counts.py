"""Counts of users: what the rows say, whoever comes and goes, in all and by day."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.counts import MAX_DAYS, Count, total
from app.domain.errors import NotReadyError, Unavailable
from app.domain.records import UserRow, encode_row
from app.engine.marker import COUNT_KEY, RECENT_KEY
from app.query.counting import Counted, Counting
from app.query.routing import Routing
from tables.counts import UserCounts
from tables.store import PartitionedStore
from tests.support.stores import open_store

BEGAN = date(2026, 1, 1)


def day(number: int) -> str:
    """Return a day."""
    return (BEGAN + timedelta(days=number)).isoformat()


def row(
    user_id: str, number: int, status: Literal["pending", "registered"] = "registered"
) -> UserRow:
    """Return the row of a user who registered on a day."""
    at = f"{day(number)}T23:59:59.999Z"
    return UserRow(
        id=user_id,
        name="Ada",
        email="ada@example.com",
        status=status,
        registered_at=at,
        updated_at=at,
        version=1,
        position="AQAAAAAAAAAAAAAAAAAA",
    )


# -- the numbers


def test_users_count_from_their_registration_to_their_erasure() -> None:
    count = Count().after([day(1), day(2), day(2)], ())
    assert (count.users, count.days) == (3, {day(1): 1, day(2): 2})
    assert count.after([day(3)], [day(1), day(2)]) == Count(2, {day(2): 1, day(3): 1})
    assert Count.decode(count.encode()) == count


def test_old_days_are_forgotten_and_their_users_still_count() -> None:
    count = Count().after([day(number) for number in range(MAX_DAYS)], ())
    assert (len(count.days), count.since) == (MAX_DAYS, "")
    count = count.after([day(MAX_DAYS)], ())
    assert (len(count.days), count.since, count.users) == (MAX_DAYS, day(1), MAX_DAYS + 1)
    # Nothing is known of what is before: who comes or goes there counts, but not by day.
    after = count.after([day(0)], [day(0), day(0)])
    assert (after.users, after.days, after.since) == (MAX_DAYS, count.days, day(1))


@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 3 * MAX_DAYS), max_size=40)),
        max_size=10,
    )
)
def test_a_count_says_what_the_rows_say(steps: list[tuple[bool, list[int]]]) -> None:
    count, there = Count(), Counter[str]()
    for comes, numbers in steps:
        days = [day(number) for number in numbers]
        if comes:
            there.update(days)
            count = count.after(days, ())
        else:
            gone = list((Counter(days) & there).elements())
            there.subtract(gone)
            count = count.after((), gone)
        assert count.users == there.total()
        assert count.days == {day: n for day, n in there.items() if n and day >= count.since}
        assert len(count.days) <= MAX_DAYS


def test_of_several_counts_only_days_that_all_know_are_told() -> None:
    first = Count(5, {day(3): 1, day(4): 2}, since=day(3))
    second = Count(4, {day(1): 1, day(4): 3})
    assert total([first, second]) == Count(9, {day(3): 1, day(4): 5}, since=day(3))
    assert total([]) == Count()


# -- the row


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartitionedStore]:
    """Return a store with two open partitions."""
    store = open_store(tmp_path)
    for partition in range(2):
        store.open(partition)
    yield store
    store.close(range(2))


async def test_changes_of_one_transaction_add_up(store: PartitionedStore) -> None:
    counts = UserCounts(store)
    assert counts.changed(0, [row("ada", 1)], [], {}) == {}  # nobody has counted yet
    await counts.count(0)
    pending = dict(counts.changed(0, [row("ada", 1), row("bob", 2)], [], {}))
    pending |= counts.changed(0, [row("eve", 2)], [row("ada", 1)], pending)
    store.apply(0, pending, 1)
    assert counts.of(0) == Count(2, {day(2): 2})
    assert counts.of(1) is None
    assert counts.changed(0, [], [], {}) == {}


@pytest.mark.parametrize("users", [0, 1, 999, 1_000, 1_001])
async def test_what_nobody_has_counted_is_counted_once(store: PartitionedStore, users: int) -> None:
    counts = UserCounts(store)
    rows = {f"user-{n}".encode(): encode_row(row(f"user-{n}", n % 3)) for n in range(users)}
    waits = {b"waits": encode_row(row("waits", 1, "pending")), RECENT_KEY: b"[]"}
    store.apply(0, {**rows, **waits}, 1)
    assert counts.of(0) is None
    await counts.count(0)
    found = counts.of(0)
    assert found is not None
    assert (found.users, sum(found.days.values())) == (users, users)
    # The next change writes it down.
    store.apply(0, counts.changed(0, [row("new", 7)], [], {}), 2)
    anew = UserCounts(store)
    await anew.count(0)
    assert anew.of(0) == Count(users + 1, {**found.days, day(7): 1})


async def test_what_is_written_is_not_counted_again(store: PartitionedStore) -> None:
    store.apply(0, {COUNT_KEY: Count(5).encode(), b"ada": encode_row(row("ada", 1))}, 1)
    counts = UserCounts(store)
    await counts.count(0)
    assert counts.of(0) == Count(5)


# -- over all workers


class Group:
    """Two workers, as the first of them sees them."""

    partitions = 2

    def __init__(self, other: Mapping[str, Any] | None) -> None:
        self.other = other

    def all_here(self) -> list[int]:
        """Return the partitions of this worker."""
        return [0]

    def stale_seconds(self, _partition: int) -> float:
        """Return that the broker confirms what is here."""
        return 0.0

    def why_not_here(self, _partition: int) -> Unavailable | None:
        """Return that nothing is known against this worker."""
        return None

    def owners_elsewhere(self, _partitions: object) -> set[str]:
        """Return the other worker."""
        return {"other"}

    def other_workers(self) -> set[str]:
        """Return the other worker."""
        return {"other"}

    async def ask(self, _url: str, path: str) -> tuple[int, bytes]:
        """Return what the other one answers."""
        assert path == "/counts"
        if self.other is None:
            raise NotReadyError(Unavailable.OWNER_UNREACHABLE)
        return 200, orjson.dumps(self.other)


async def test_the_workers_counts_are_one(store: PartitionedStore) -> None:
    store.apply(0, {COUNT_KEY: Count(5, {day(1): 5}).encode()}, 1)
    other = orjson.loads(Counted({1: Count(3, {day(1): 2, day(2): 1})}, 0.5).encode())
    counted = await Counting(UserCounts(store), cast(Routing, Group(other))).all()
    assert counted.members() == {
        "users": 8,
        "days": {day(1): 7, day(2): 1},
        "stale_seconds": 0.5,
    }


@pytest.mark.parametrize(
    "other",
    [None, {}, {"counts": {}, "stale_seconds": 0}, {"counts": {"1": 3}, "stale_seconds": 0}, []],
)
async def test_a_partial_count_is_none(store: PartitionedStore, other: Any) -> None:
    store.apply(0, {COUNT_KEY: Count(5).encode()}, 1)
    with pytest.raises(NotReadyError):
        await Counting(UserCounts(store), cast(Routing, Group(other))).all()


async def test_a_partition_that_nobody_has_counted_is_not_told(store: PartitionedStore) -> None:
    other = orjson.loads(Counted({1: Count(3)}).encode())
    with pytest.raises(NotReadyError):
        await Counting(UserCounts(store), cast(Routing, Group(other))).all()
