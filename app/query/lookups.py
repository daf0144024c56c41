"""Lookups of users and of outcomes: answered here, or by the owner of the partition.

A lookup after a write waits until that write is settled, so that its writer reads what it wrote,
whichever worker it asks. While nobody can answer for a partition, a copy does, and says how old it
may be; that there is nobody under an id only the owner says.
"""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from urllib.parse import quote

import orjson
from faust.types import TP

from app.domain.addresses import EmailKeys
from app.domain.errors import InvalidPositionError, NotReadyError, NotSettledError, Unavailable
from app.domain.keys import encode_key, partition_of
from app.domain.outcomes import Outcome
from app.domain.positions import CURRENT_GENERATION, Position
from app.domain.records import User, outcome_members
from app.query.counting import Counted, Counting
from app.query.listing import Listing, UsersPage, Wanted
from app.query.newest import Newest, NewestUsers, Place
from app.query.partition_query import Found, Question, answer
from app.query.routing import Routing
from tables import Tables

#: Moves that are followed: a record is moved once, and once more if partitions were added.
_MAX_MOVES = 3
#: After so long it is asked whether there is such a write at all.
SETTLED_SOON_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of the record at a position, and where it was moved to, if it was."""

    position: Position
    outcome: Outcome
    moved_to: Position | None = None

    def members(self) -> dict[str, str]:
        """Return it as JSON members."""
        moved_to = None if self.moved_to is None else self.moved_to.token()
        return outcome_members(self.position.token(), self.outcome, moved_to)


class FindsUsers(Protocol):
    """What the web view needs of lookups; tests may bring their own."""

    async def find(
        self, user_id: str, *, after: Position | None = None, forwarded: bool = False
    ) -> User | None:
        """Return the user under an id, or None; `NotReadyError` if nobody can tell now.

        It has ``stale_seconds`` if it comes from a copy.
        """
        ...

    def find_here(self, user_id: str) -> User | None:
        """Return the user under an id, if this worker is the one to say so; None says nothing."""
        ...

    async def find_by_email(self, email: str, *, after: Position | None = None) -> User | None:
        """Return the user who holds an address, or None."""
        ...

    async def holder(
        self, email_key: str, *, caught_up: bool, forwarded: bool
    ) -> Found[str | None]:
        """Return the id of the user who holds the address with a key, or None."""
        ...

    async def outcome(
        self, position: Position, wait_seconds: float = 0, *, forwarded: bool = False
    ) -> WriteResult | None:
        """Return what became of the record at a position, None if no such record is known."""
        ...

    async def settled(self, position: Position, wait_seconds: float) -> WriteResult | None:
        """Return what became of a record, wherever it was moved to."""
        ...

    async def newest(
        self, limit: int, *, before: Place | None = None, forwarded: bool = False
    ) -> Newest:
        """Return registrations of all workers, newest first; all of this one if ``forwarded``."""
        ...

    async def page(
        self, wanted: Wanted, *, after: Position | None = None, forwarded: bool = False
    ) -> UsersPage:
        """Return users in the order of their ids, over all workers."""
        ...

    async def count(self, *, after: Position | None = None, forwarded: bool = False) -> Counted:
        """Return how many users there are, over all workers."""
        ...


class Lookups:
    """Lookups over the tables of all workers."""

    def __init__(
        self,
        tables: Tables,
        by_id: Routing,
        by_email: Routing,
        email_keys: EmailKeys,
        max_wait_seconds: float,
    ) -> None:
        self._tables = tables
        self._by_id = by_id
        self._by_email = by_email
        self._email_keys = email_keys
        self._max_wait = max_wait_seconds
        self._listing = Listing(tables.users, by_id)
        self._newest = NewestUsers(tables.recent, tables.users, by_id)
        self._counting = Counting(tables.counts, by_id)

    # -- by id

    async def find(
        self, user_id: str, *, after: Position | None = None, forwarded: bool = False
    ) -> User | None:
        """Return the user under an id, or None, as it is once a write is settled.

        Raises `NotReadyError` if nobody can tell now, `NotSettledError` if that takes too long,
        and `InvalidPositionError` if the write is not of the id's partition.
        """
        partition = partition_of(encode_key(user_id), self._by_id.partitions)
        if after is not None and after.partition != partition and not forwarded:
            after = (await self._wait_until_settled(after)).position
        if after is not None and after.partition != partition:
            raise InvalidPositionError("the position of a write to another user's partition")
        path = f"/users?id={quote(user_id, safe='')}"
        if after is not None:
            if self._by_id.here(partition) is not None:
                await self._wait_until_settled(after, forwarded=True)
            path += f"&after={after.token()}"
        question = Question(
            partition,
            partial(self._tables.users.find, partition, user_id),
            path,
            _user_in,
            wait_seconds=0 if after is None else self._max_wait,
            takes_copies=after is None,
        )
        found = await answer(self._by_id, question, forwarded=forwarded)
        user = found.value
        return user.stale(found.stale_seconds) if user and found.stale_seconds else user

    def find_here(self, user_id: str) -> User | None:
        """Return the user under an id, if this worker owns and has the row; None says nothing."""
        partition = partition_of(encode_key(user_id), self._by_id.partitions)
        if self._by_id.here(partition) is None:
            return None
        return self._tables.users.find(partition, user_id)

    # -- by email

    async def find_by_email(self, email: str, *, after: Position | None = None) -> User | None:
        """Return the user who holds an address, or None, as it is once a write is settled.

        Raises as `find` does.
        """
        if after is not None:
            await self._wait_until_settled(after)
        email_key = self._email_keys.key(email)
        held = await self.holder(email_key.decode(), caught_up=after is not None)
        earlier = self._email_keys.key_of_0_8(email)
        if held.value is None and earlier is not None:
            held = await self.holder(earlier.decode(), caught_up=after is not None)
        user = None if held.value is None else await self.find(held.value)
        is_stale = held.stale_seconds > 0 or (user is not None and user.stale_seconds is not None)
        # Who holds the address may be about to get it, or to let it go.
        if user is not None and self._email_keys.key(user.email) == email_key:
            if after is None or user.stale_seconds is None:
                return user
        elif not is_stale:
            return None
        raise NotReadyError(Unavailable.STALE_COPY)

    async def holder(
        self, email_key: str, *, caught_up: bool = False, forwarded: bool = False
    ) -> Found[str | None]:
        """Return the id of the user who holds the address with a key, or None.

        ``caught_up``: everything that is committed counts, what is not in the store yet as well.
        """
        key = email_key.encode()
        partition = partition_of(key, self._by_email.partitions)
        if caught_up and (owned := self._by_email.here(partition)) is not None:
            try:
                async with asyncio.timeout(self._max_wait):
                    await owned.caught_up()
            except TimeoutError:
                raise NotSettledError(_NOT_SETTLED) from None
        question = Question(
            partition,
            partial(self._holder_here, partition, key),
            f"/email-holders/{quote(email_key, safe='')}?caught_up={int(caught_up)}",
            _holder_in,
            wait_seconds=self._max_wait if caught_up else 0,
            takes_copies=not caught_up,
        )
        return await answer(self._by_email, question, forwarded=forwarded)

    def _holder_here(self, partition: int, key: bytes) -> str | None:
        found = self._tables.emails.find(partition, key)
        return None if found is None else found["id"]

    # -- what became of a write

    async def _wait_until_settled(
        self, position: Position, *, forwarded: bool = False
    ) -> WriteResult:
        told = await self.settled(position, self._max_wait, forwarded=forwarded)
        if told is None:
            raise InvalidPositionError("the position of no record that is known")
        if not told.outcome.is_terminal:
            raise NotSettledError(_NOT_SETTLED)
        return told

    async def settled(
        self, position: Position, wait_seconds: float, *, forwarded: bool = False
    ) -> WriteResult | None:
        """Return what became of a record, wherever it was moved to.

        It may be pending still when the time is over. None if no such record is known.
        """
        deadline = time.monotonic() + wait_seconds
        told: WriteResult | None = None
        for _ in range(_MAX_MOVES):
            left = max(deadline - time.monotonic(), 0)
            told = await self.outcome(position, left, forwarded=forwarded)
            if told is None or told.moved_to is None:
                break
            position = told.moved_to
        return told

    async def outcome(
        self, position: Position, wait_seconds: float = 0, *, forwarded: bool = False
    ) -> WriteResult | None:
        """Return what became of the record at a position, None if no such record is known.

        Waits so long for something terminal.
        """
        if position.generation != CURRENT_GENERATION:
            raise InvalidPositionError("a position of another generation of the topic")
        if position.partition >= self._by_id.partitions:
            raise InvalidPositionError("a position in a partition that does not exist")
        if self._by_id.here(position.partition) is not None:
            return await self._outcome_here(position, wait_seconds)
        question = Question(
            position.partition,
            _not_here,
            f"/registrations/{position.token()}?wait={wait_seconds:.3f}",
            partial(_told_in, position),
            wait_seconds=wait_seconds,
            takes_copies=False,
        )
        return (await answer(self._by_id, question, forwarded=forwarded)).value

    async def _outcome_here(self, position: Position, wait_seconds: float) -> WriteResult | None:
        deadline = time.monotonic() + wait_seconds
        is_there = False
        while True:
            owned = self._by_id.here(position.partition)
            if owned is None:
                cause = self._by_id.why_not_here(position.partition)
                raise NotReadyError(cause or Unavailable.REBALANCING)
            outcome = self._tables.outcomes.find(position.partition, position.offset)
            if outcome is None and position.offset < owned.applied(self._tables.users.topic):
                return None
            if outcome is not None and outcome.is_terminal:
                return WriteResult(position, outcome, self._moved_to(position, outcome))
            left = deadline - time.monotonic()
            try:
                async with asyncio.timeout(left if is_there else min(left, SETTLED_SOON_SECONDS)):
                    await owned.settled(position.offset)
            except TimeoutError:
                # Most writes are settled before anybody has to ask the broker for them.
                is_there = is_there or outcome is not None or await self._is_written(position)
                if not is_there:
                    return None
                if time.monotonic() >= deadline:
                    return WriteResult(position, Outcome.PENDING)

    async def _is_written(self, position: Position) -> bool:
        source = TP(self._tables.users.topic, position.partition)
        return await self._by_id.reaches(source, position.offset)

    def _moved_to(self, position: Position, outcome: Outcome) -> Position | None:
        if outcome is not Outcome.MOVED:
            return None
        moved_to = self._tables.outcomes.moved_to(position.partition, position.offset)
        return None if moved_to is None else Position.parse(moved_to)

    # -- lists

    async def page(
        self, wanted: Wanted, *, after: Position | None = None, forwarded: bool = False
    ) -> UsersPage:
        """Return users in the order of their ids, as they are once a write is settled.

        Of all workers, or of this one if ``forwarded``. Raises as `find` does.
        """
        if after is not None:
            await self._wait_until_settled(after)
        return await self._listing.page(wanted, forwarded=forwarded)

    async def newest(
        self, limit: int, *, before: Place | None = None, forwarded: bool = False
    ) -> Newest:
        """Return registrations of all workers, newest first; all of this one if ``forwarded``."""
        return self._newest.here() if forwarded else await self._newest.all(limit, before)

    async def count(self, *, after: Position | None = None, forwarded: bool = False) -> Counted:
        """Return how many users there are, once a write is settled.

        Of all workers, or of this one if ``forwarded``. Raises as `find` does.
        """
        if after is not None:
            await self._wait_until_settled(after)
        return self._counting.here() if forwarded else await self._counting.all()


_NOT_SETTLED = "the write is durable, but not settled yet"


# -- what other workers answer


def _user_in(status: int, body: bytes) -> Found[User | None]:
    if status == 404 and b"unknown-user" in body:
        return Found(None)
    user = User.model_validate_json(body)
    return Found(user, user.stale_seconds or 0.0)


def _holder_in(status: int, body: bytes) -> Found[str | None]:
    members = orjson.loads(body)
    return Found(members["id"], members.get("stale_seconds", 0.0))


def _told_in(position: Position, status: int, body: bytes) -> Found[WriteResult | None]:
    if status == 404 and b"unknown-position" in body:
        return Found(None)
    members = orjson.loads(body)
    moved_to = members.get("moved_to")
    outcome = Outcome.from_words(members["outcome"], members.get("reason"))
    told = WriteResult(position, outcome, None if moved_to is None else Position.parse(moved_to))
    return Found(told)


def _not_here() -> WriteResult | None:
    raise NotReadyError(Unavailable.REBALANCING)
