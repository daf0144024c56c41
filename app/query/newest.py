"""The newest registrations over all workers, newest first.

Each partition remembers a bounded number of them. A list over all ends where the first partition
has forgotten something: what is listed is whole. What is missing because nobody answers for a
partition is told.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.domain import cursors
from app.domain.errors import NotReadyError
from app.domain.records import User
from app.query.routing import Routing
from tables.recent import RECENT_PER_PARTITION, RecentRegistrations
from tables.users import Users

#: Registrations in a list, if nobody says how many.
NEWEST_USERS = 20


class Place(NamedTuple):
    """Where a registration stands in the list: by its time, and its id."""

    registered_at: datetime
    id: str

    @staticmethod
    def of(user: User) -> "Place":
        """Return the place of a user."""
        return Place(user.registered_at, user.id)

    def cursor(self) -> str:
        """Return the cursor of the registrations after this one."""
        return cursors.encode(orjson.dumps([self.registered_at.isoformat(), self.id]))


_PLACES = TypeAdapter(tuple[datetime, str])


def place_before(cursor: str | None) -> Place | None:
    """Return the place that a cursor comes after; None at the beginning."""
    if cursor is None:
        return None
    try:
        place = Place(*_PLACES.validate_json(cursors.decode(cursor)))
    except ValidationError:
        raise cursors.invalid() from None
    if place.registered_at.tzinfo is None:
        raise cursors.invalid()
    return place


@dataclass(frozen=True, slots=True)
class Newest:
    """Registrations, newest first; the workers that did not answer, the partitions nobody told of.

    ``forgotten`` is the place from which on some partition has forgotten registrations.
    """

    users: list[User]
    unavailable: list[str]
    partitions: frozenset[int] = frozenset()
    missing: Sequence[int] = ()
    forgotten: Place | None = None
    has_more: bool = False


class _Answer(BaseModel):
    """What another worker tells of its partitions."""

    users: list[User]
    partitions: frozenset[int]
    forgotten: Place | None = None


class NewestUsers:
    """The newest registrations of all partitions."""

    def __init__(self, recent: RecentRegistrations, users: Users, routing: Routing) -> None:
        self._recent = recent
        self._users = users
        self._routing = routing

    async def all(self, limit: int, before: Place | None) -> Newest:
        """Return so many registrations of all workers, those that come after a place."""
        here = self.here()
        others = sorted(self._routing.other_workers())
        answers = await asyncio.gather(*map(self._ask, others))
        told = [here, *(answer for answer in answers if answer is not None)]
        whole = _whole(told)
        listed = [user for user in whole.users if before is None or Place.of(user) < before]
        return Newest(
            listed[:limit],
            [url for url, answer in zip(others, answers, strict=True) if answer is None],
            whole.partitions,
            sorted(frozenset(range(self._routing.partitions)) - whole.partitions),
            whole.forgotten,
            len(listed) > limit,
        )

    def here(self) -> Newest:
        """Return all registrations that this worker's partitions remember."""
        return _whole([self._of(partition) for partition in self._routing.all_here()])

    def _of(self, partition: int) -> Newest:
        recent = self._recent.newest(partition)
        users = self._users.find_many(partition, (known.id for known in recent if known.id))
        forgotten = None
        if len(recent) >= RECENT_PER_PARTITION:
            forgotten = Place(datetime.fromisoformat(recent[-1].registered_at), recent[-1].id)
        return Newest(users, [], frozenset({partition}), (), forgotten)

    async def _ask(self, url: str) -> Newest | None:
        try:
            _, body = await self._routing.ask(url, "/registrations")
            answer = _Answer.model_validate_json(body)
        except (NotReadyError, ValidationError):
            return None
        return Newest(answer.users, [], answer.partitions, (), answer.forgotten)


def _whole(told: Iterable[Newest]) -> Newest:
    """Return all that is told as one list, down to where the first of them has forgotten some."""
    told = list(told)
    forgotten = max((each.forgotten for each in told if each.forgotten), default=None)
    # A partition that moved meanwhile may have been told of twice.
    users = {user.id: user for each in told for user in each.users}
    listed = sorted(users.values(), key=Place.of, reverse=True)
    return Newest(
        [user for user in listed if forgotten is None or Place.of(user) >= forgotten],
        [],
        frozenset[int]().union(*(each.partitions for each in told)),
        (),
        forgotten,
    )
