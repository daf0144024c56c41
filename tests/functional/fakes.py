"""Stand-ins for the broker and the tables: the only place where tests may use them."""

import asyncio
from dataclasses import dataclass, field

from app.errors import NotReadyError
from app.lookups import Newest
from app.records import Outgoing, Registration, User, encode, encode_row, public
from app.registration import first_row
from tests.strategies import Record


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

    async def find(self, user_id: str, *, forwarded: bool = False) -> User | None:
        """Return the user under an id."""
        if not self.ready:
            raise NotReadyError("the tables are recovering")
        return self.users.get(user_id)

    async def newest(self, *, forwarded: bool = False) -> Newest:
        """Return all users."""
        return Newest(list(self.users.values()), self.unavailable)

    def is_ready(self) -> bool:
        """Return what was set."""
        return self.ready

    def add(self, user_id: str, name: str = "Ada", email: str = "ada@example.com") -> User:
        """Register a user, by the real decision."""
        registration = Registration(id=user_id, name=name, email=email)
        row = first_row(0, Record(encode(registration)), registration)
        self.users[user_id] = public(encode_row(row))
        return self.users[user_id]
