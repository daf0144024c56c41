"""Lookups: what the owner says, what a copy may say, and what became of a write."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from app.domain.addresses import EmailKeys
from app.domain.errors import InvalidPositionError, NotReadyError, NotSettledError, Unavailable
from app.domain.keys import partition_of
from app.domain.outcomes import Outcome
from app.domain.positions import CURRENT_GENERATION, Position
from app.domain.records import User
from app.engine.lease import Lease
from app.engine.partitions import AppliedTable, OwnedPartition
from app.query.lookups import Lookups, WriteResult
from tables import Tables

PARTITIONS = 4
TOPIC = "user-registrations"
KEYS = EmailKeys(b"a secret of sixteen letters")
ADA, ADDRESS = "ada", "ada@example.com"
HOME = partition_of(ADA.encode(), PARTITIONS)
#: Long enough that nobody waits for it.
LONG_SECONDS = 60.0


def user(email: str = ADDRESS) -> User:
    """Return a user under an address."""
    row = b'"status": "registered", "version": 1, "position": "p"'
    times = b'"registered_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"'
    return User.model_validate_json(
        b'{"id": "ada", "name": "Ada", "email": "%b", %b, %b}' % (email.encode(), row, times)
    )


@dataclass
class Rows:
    """What the tables of this worker have."""

    topic: str = TOPIC
    users: dict[str, User] = field(default_factory=dict)
    holders: dict[bytes, str] = field(default_factory=dict)
    outcomes: dict[tuple[int, int], Outcome] = field(default_factory=dict)
    moves: dict[tuple[int, int], Position] = field(default_factory=dict)

    def tables(self) -> Tables:
        """Return them as lookups read them."""
        users = SimpleNamespace(topic=TOPIC, find=lambda _, user_id: self.users.get(user_id))
        emails = SimpleNamespace(find=lambda _, key: self._holder(key))
        outcomes = SimpleNamespace(
            find=lambda *place: self.outcomes.get(place),
            moved_to=lambda *place: self.moves[place].token(),
        )
        none = cast(Any, None)
        return Tables(cast(Any, users), cast(Any, emails), cast(Any, outcomes), none, none, none)

    def _holder(self, key: bytes) -> dict[str, str] | None:
        held = self.holders.get(key)
        return None if held is None else {"id": held, "attempt": "a"}


@dataclass
class Alone:
    """The routing of a worker that is alone, and owns all, or keeps copies."""

    stale: float = 0.0
    partitions: int = PARTITIONS
    end: int = 100
    owned: defaultdict[int, OwnedPartition] = field(init=False)

    def __post_init__(self) -> None:
        table = AppliedTable("users", (TOPIC,), cast(Any, None), cast(Any, None))
        self.owned = defaultdict(lambda: OwnedPartition(table, 0, Lease()))

    def here(self, partition: int) -> OwnedPartition | None:
        """Return a partition, if it is owned."""
        return None if self.stale else self.owned[partition]

    def stale_seconds(self, partition: int) -> float:
        """Return how old the rows may be."""
        return self.stale

    def why_not_here(self, partition: int) -> Unavailable | None:
        """Return that no partition is this worker's."""
        return None

    def owners_elsewhere(self, partitions: object) -> set[str]:
        """Return nobody."""
        return set()

    def other_workers(self) -> set[str]:
        """Return nobody."""
        return set()

    async def reaches(self, source: TP, offset: int) -> bool:
        """Return whether the log has an offset."""
        return source.topic == TOPIC and offset < self.end

    def apply(self, partition: int, offset: int) -> None:
        """Take everything below an offset for applied."""
        owned = self.owned[partition]
        owned.move_on(owned.marker.after(TOPIC, offset))


@pytest.fixture
def rows() -> Rows:
    """Return tables that have Ada and her address."""
    return Rows(users={ADA: user()}, holders={KEYS.key(ADDRESS): ADA})


def lookups(rows: Rows, routing: Alone, max_wait_seconds: float = LONG_SECONDS) -> Lookups:
    """Return lookups of this worker alone."""
    given = cast(Any, routing)
    return Lookups(rows.tables(), given, given, KEYS, max_wait_seconds)


# -- by email


async def test_an_address_that_0_8_stored_is_found_under_its_key_of_then(rows: Rows) -> None:
    address = "ada@xn--bcher-kva.example"
    earlier = KEYS.key_of_0_8(address)
    assert earlier is not None
    assert KEYS.key_of_0_8(ADDRESS) is KEYS.key_of_0_8("ada@bücher.example") is None
    rows.users[ADA], rows.holders = user(address), {earlier: ADA}
    assert await lookups(rows, Alone()).find_by_email(address) == user(address)
    rows.users[ADA] = user()
    assert await lookups(rows, Alone()).find_by_email(address) is None


# -- what became of a write


async def test_a_write_that_is_not_applied_yet_is_pending_and_not_unknown(rows: Rows) -> None:
    alone, position = Alone(), Position(1, 7)
    alone.apply(1, 7)
    assert await lookups(rows, alone).outcome(position) == WriteResult(position, Outcome.PENDING)
    alone.apply(1, 8)
    assert await lookups(rows, alone).outcome(position) is None


@pytest.mark.parametrize("wait_seconds", [0.0, LONG_SECONDS])
async def test_a_position_beyond_the_log_is_unknown(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, wait_seconds: float
) -> None:
    monkeypatch.setattr("app.query.lookups.SETTLED_SOON_SECONDS", 0.01)
    alone = Alone(end=8)
    known = lookups(rows, alone)
    assert await known.outcome(Position(1, 8), wait_seconds) is None
    assert await known.outcome(Position(1, 7)) == WriteResult(Position(1, 7), Outcome.PENDING)
    with pytest.raises(InvalidPositionError):
        await known.find(ADA, after=Position(HOME, 8))


async def test_who_waits_for_a_write_is_told_once_it_is_settled(rows: Rows) -> None:
    alone, position = Alone(), Position(1, 7)
    rows.outcomes[1, 7] = Outcome.PENDING
    asked = asyncio.create_task(lookups(rows, alone).outcome(position, LONG_SECONDS))
    while not alone.owned[1]._waiters:
        assert not asked.done()
        await asyncio.sleep(0)
    rows.outcomes[1, 7] = Outcome.REGISTERED
    alone.owned[1].wake_all()
    assert await asked == WriteResult(position, Outcome.REGISTERED)


async def test_a_moved_write_is_followed(rows: Rows) -> None:
    moved, home = Position(1, 7), Position(2, 9)
    rows.outcomes = {(1, 7): Outcome.MOVED, (2, 9): Outcome.REGISTERED}
    rows.moves[1, 7] = home
    assert await lookups(rows, Alone()).settled(moved, 0) == WriteResult(home, Outcome.REGISTERED)


async def test_a_position_of_another_topic_of_the_name_is_refused(rows: Rows) -> None:
    rows.outcomes[1, 7] = Outcome.REGISTERED
    with pytest.raises(InvalidPositionError):
        await lookups(rows, Alone()).outcome(Position(1, 7, CURRENT_GENERATION + 1))


# -- after a write


async def test_a_lookup_after_a_write_waits_until_it_is_settled(rows: Rows) -> None:
    alone, position = Alone(), Position(HOME, 7)
    rows.outcomes[HOME, 7] = Outcome.PENDING
    with pytest.raises(NotSettledError):
        await lookups(rows, alone, max_wait_seconds=0.01).find(ADA, after=position)
    rows.outcomes[HOME, 7] = Outcome.UPDATED
    assert await lookups(rows, alone).find(ADA, after=position) == user()


async def test_no_copy_answers_a_lookup_after_a_write(rows: Rows) -> None:
    copy = lookups(rows, Alone(stale=3.0))
    assert await copy.find(ADA) == user().stale(3.0)
    with pytest.raises(NotReadyError):
        await copy.find(ADA, after=Position(HOME, 7))


# -- by email


async def test_who_has_let_go_of_an_address_is_not_found_by_it(rows: Rows) -> None:
    """Its release may be under way."""
    assert await lookups(rows, Alone()).find_by_email(ADDRESS) == user()
    rows.users[ADA] = user("new@example.com")
    assert await lookups(rows, Alone()).find_by_email(ADDRESS) is None


async def test_copies_that_disagree_do_not_say_that_nobody_has_an_address(rows: Rows) -> None:
    copy = lookups(rows, Alone(stale=3.0))
    assert await copy.find_by_email(ADDRESS) == user().stale(3.0)
    rows.users[ADA] = user("new@example.com")
    with pytest.raises(NotReadyError):
        await copy.find_by_email(ADDRESS)
