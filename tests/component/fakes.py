"""Stand-ins for the broker and the tables: the only place where tests may use them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.domain.addresses import EmailKeys
from app.domain.counts import Count
from app.domain.decisions import Decisions
from app.domain.email_claims import Verdict
from app.domain.errors import NotReadyError, OutcomeUnknownError, OverloadedError, Unavailable
from app.domain.outcomes import Outcome
from app.domain.positions import Position, token
from app.domain.records import Queued, Registration, User, encode_row, public
from app.ingest.accumulator import Offsets
from app.kafka.fast_records import ToWrite
from app.query.counting import Counted
from app.query.listing import UsersPage, Wanted
from app.query.lookups import WriteResult
from app.query.newest import Newest, Place
from app.query.outcome_feed import Told
from app.query.partition_query import Found


@dataclass
class FakeProducer:
    """Keeps what is sent; fails, or stays silent, when told to."""

    sent: list[tuple[str, int, bytes | None, bytes | None]] = field(default_factory=list)
    failure: Exception | None = None
    #: After how many records everything fails, and why.
    failures_from: tuple[int, Exception] | None = None
    #: Whether nothing is ever acknowledged.
    silent: bool = False
    #: What is asked for in each call.
    asked: list[Mapping[int, Sequence[ToWrite]]] = field(default_factory=list)
    _unanswered: list[Offsets] = field(default_factory=list)

    def give_up(self) -> None:
        """Let all that is silent fail."""
        while self._unanswered:
            self._unanswered.pop().set_exception(OutcomeUnknownError("no acknowledgement"))

    def acknowledge(self) -> None:
        """Let all that is silent be written, wherever."""
        while self._unanswered:
            self._unanswered.pop().set_result(range(10_000))

    def send(self, records: Mapping[int, Sequence[ToWrite]]) -> Mapping[int, Offsets]:
        """Return the offsets: how many were sent before."""
        self.asked.append(records)
        if self.failures_from is not None and len(self.sent) >= self.failures_from[0]:
            self.failure = self.failures_from[1]
        if isinstance(self.failure, OverloadedError):
            raise self.failure
        return {partition: self._send(partition, some) for partition, some in records.items()}

    def _send(self, partition: int, records: Sequence[ToWrite]) -> Offsets:
        offsets: Offsets = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            offsets.set_exception(self.failure)
        elif self.silent:
            self._unanswered.append(offsets)
        else:
            begin = len(self.sent)
            topic = "user-registrations"
            self.sent += [(topic, partition, key, value) for _, key, value, _ in records]
            offsets.set_result(range(begin, len(self.sent)))
        return offsets


@dataclass
class FakeLookups:
    """Finds what it was given."""

    users: dict[str, User] = field(default_factory=dict)
    ready: bool = True
    unavailable: list[str] = field(default_factory=list)
    #: Partitions whose newest registrations nobody tells.
    missing: list[int] = field(default_factory=list)
    #: What becomes of each write; one that is not named is pending.
    outcomes: dict[Position, Outcome] = field(default_factory=dict)
    #: What becomes of writes that are not named above.
    outcome_of_all: Outcome = Outcome.PENDING
    holders: dict[str, str] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    #: Ids whose users other workers have.
    elsewhere: set[str] = field(default_factory=set)
    asked_after: list[Position | None] = field(default_factory=list)
    #: For how long counts may lack something.
    stale_seconds: float = 0.0
    #: Ids whose lookups wait for something.
    held: dict[str, asyncio.Event] = field(default_factory=dict)

    async def find(
        self, user_id: str, *, after: Position | None = None, forwarded: bool = False
    ) -> User | None:
        """Return the user under an id."""
        self.asked_after.append(after)
        if not self.ready:
            raise NotReadyError(Unavailable.RECOVERING)
        if user_id in self.held:
            await self.held[user_id].wait()
        return self.users.get(user_id)

    def find_here(self, user_id: str) -> User | None:
        """Return the user under an id, unless somebody else has to be asked."""
        is_here = self.ready and user_id not in self.elsewhere
        return self.users.get(user_id) if is_here else None

    async def find_by_email(self, email: str, *, after: Position | None = None) -> User | None:
        """Return the user with exactly this address."""
        self.asked_after.append(after)
        return next((user for user in self.users.values() if user.email == email), None)

    async def holder(
        self, email_key: str, *, caught_up: bool = False, forwarded: bool = False
    ) -> Found[str | None]:
        """Return the id that was set."""
        return Found(self.holders.get(email_key))

    async def outcome(
        self, position: Position, wait_seconds: float = 0, *, forwarded: bool = False
    ) -> WriteResult | None:
        """Return what was set; what stands beyond offset 1,000 is known to nobody."""
        self.waited.append(wait_seconds)
        if not self.ready:
            raise NotReadyError(Unavailable.RECOVERING)
        if position.offset > 1_000:
            return None
        return WriteResult(position, self.outcomes.get(position, self.outcome_of_all))

    async def settled(self, position: Position, wait_seconds: float) -> WriteResult | None:
        """Return what was set."""
        return await self.outcome(position, wait_seconds)

    async def newest(
        self, limit: int, *, before: Place | None = None, forwarded: bool = False
    ) -> Newest:
        """Return all users as they were added, which is not newest first."""
        users = [u for u in self.users.values() if before is None or Place.of(u) < before]
        has_more = len(users) > limit
        return Newest(users[:limit], self.unavailable, frozenset({0}), self.missing, None, has_more)

    async def page(
        self, wanted: Wanted, *, after: Position | None = None, forwarded: bool = False
    ) -> UsersPage:
        """Return the users in order; partitions 0 and 1 are this worker's."""
        self.asked_after.append(after)
        if not self.ready:
            raise NotReadyError(Unavailable.RECOVERING)
        ids = sorted(user_id for user_id in self.users if user_id.startswith(wanted.prefix))
        found = [self.users[user_id] for user_id in ids if user_id > (wanted.after_id or "")]
        has_more = len(found) > wanted.limit
        return UsersPage(found[: wanted.limit], has_more, frozenset({0, 1}))

    async def count(self, *, after: Position | None = None, forwarded: bool = False) -> Counted:
        """Return the count of the users, all of whom are in partition 0."""
        self.asked_after.append(after)
        if not self.ready:
            raise NotReadyError(Unavailable.RECOVERING)
        days = [f"{user.registered_at:%Y-%m-%d}" for user in self.users.values()]
        return Counted({0: Count().after(days, ()), 1: Count()}, self.stale_seconds)

    def why_not_ready(self) -> Sequence[str]:
        """Return a reason, unless they are ready."""
        return () if self.ready else ("the tables are recovering",)

    def add(self, user_id: str, name: str = "Ada", email: str = "ada@example.com") -> User:
        """Register a user, by the real decisions."""
        decisions = Decisions(0, EmailKeys(b"secret").key)
        command = Registration(id=user_id, name=name, email=email)
        key = user_id.encode()
        row = decisions.ask(None, key, Queued(0, 1_700_000_000_000, command))
        verdict = Verdict(email_key="", attempt=token(0, 0), verdict="granted", at="")
        row = decisions.settle(row, key, verdict)
        assert row is not None
        self.users[user_id] = public(encode_row(row))
        return self.users[user_id]


class FakeFeed:
    """Yields what it was given, from a cursor on."""

    def __init__(self) -> None:
        self.outcomes: list[dict[str, object]] = []
        self.failure: Exception | None = None
        self.open = 0

    async def follow(self, cursor: str | None) -> AsyncIterator[Sequence[Told]]:
        """Yield all from a cursor on."""
        self.open += 1
        try:
            at = len(self.outcomes) if cursor is None else int(cursor)
            yield []
            while True:
                if self.failure is not None:
                    raise self.failure
                some = self.outcomes[at:]
                yield [Told(str(at + n), each) for n, each in enumerate(some, 1)]
                at += len(some)
                await asyncio.sleep(0.01)
        finally:
            self.open -= 1
