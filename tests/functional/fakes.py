"""Stand-ins for the broker and the tables: the only place where tests may use them."""

import asyncio
from dataclasses import dataclass, field

from app.email_claims import Verdict
from app.errors import NotReadyError
from app.keys import EmailKeys
from app.lookups import Newest, Told
from app.outcomes import Outcome
from app.positions import Position, token
from app.records import Outgoing, Queued, Registration, User, encode_row, public
from app.registration import Decisions


@dataclass
class FakeProducer:
    """Keeps what is sent; fails, or stays silent, when told to."""

    sent: list[tuple[str, int, bytes | None, bytes | None]] = field(default_factory=list)
    failure: Exception | None = None

    async def send(self, record: Outgoing) -> int:
        """Return the offset: how many were sent before."""
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.sent.append((record.topic, record.partition, record.key, record.value))
        return len(self.sent) - 1


@dataclass
class FakeLookups:
    """Finds what it was given."""

    users: dict[str, User] = field(default_factory=dict)
    ready: bool = True
    unavailable: list[str] = field(default_factory=list)
    #: What becomes of each write; one that is not named is pending.
    outcomes: dict[Position, Outcome] = field(default_factory=dict)
    #: What becomes of writes that are not named above.
    outcome_of_all: Outcome = Outcome.PENDING
    holders: dict[str, str] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    asked_after: list[Position | None] = field(default_factory=list)

    async def find(
        self, user_id: str, *, after: Position | None = None, forwarded: bool = False
    ) -> User | None:
        """Return the user under an id."""
        self.asked_after.append(after)
        if not self.ready:
            raise NotReadyError("the tables are recovering")
        return self.users.get(user_id)

    async def find_by_email(self, email: str, *, after: Position | None = None) -> User | None:
        """Return the user with exactly this address."""
        self.asked_after.append(after)
        return next((user for user in self.users.values() if user.email == email), None)

    async def holder(
        self, email_key: str, *, caught_up: bool = False, forwarded: bool = False
    ) -> str | None:
        """Return the id that was set."""
        return self.holders.get(email_key)

    async def outcome(
        self, position: Position, wait_seconds: float = 0, *, forwarded: bool = False
    ) -> Told | None:
        """Return what was set; what stands beyond offset 1,000 is known to nobody."""
        self.waited.append(wait_seconds)
        if not self.ready:
            raise NotReadyError("the tables are recovering")
        if position.offset > 1_000:
            return None
        return Told(position, self.outcomes.get(position, self.outcome_of_all))

    async def settled(self, position: Position, wait_seconds: float) -> Told | None:
        """Return what was set."""
        return await self.outcome(position, wait_seconds)

    async def newest(self, *, forwarded: bool = False) -> Newest:
        """Return all users."""
        return Newest(list(self.users.values()), self.unavailable)

    def is_ready(self) -> bool:
        """Return what was set."""
        return self.ready

    def add(self, user_id: str, name: str = "Ada", email: str = "ada@example.com") -> User:
        """Register a user, by the real decisions."""
        decisions = Decisions(0, EmailKeys(b"secret").key)
        wish = Registration(id=user_id, name=name, email=email)
        key = user_id.encode()
        row = decisions.ask(None, key, Queued(0, 1_700_000_000_000, wish))
        verdict = Verdict(email_key="", attempt=token(0, 0), verdict="granted", at="")
        row = decisions.settle(row, key, verdict)
        assert row is not None
        self.users[user_id] = public(encode_row(row))
        return self.users[user_id]
