"""What the handlers work with, given once when the web view is built."""

from dataclasses import dataclass
from typing import cast

from aiohttp import web

from app.dead_letters.recent import ReadsDeadLetters
from app.errors import NotReadyError
from app.keys import encode_key, partition_of
from app.lookups import FindsUsers, Told
from app.outcomes import Outcome
from app.positions import Position
from app.producer import SendsRecords
from app.records import Outgoing, Wish, encode
from app.settings import Settings
from app.topics import TopicSpec

#: Tests that do not ask for dead letters give none.
_NOT_GIVEN = cast(ReadsDeadLetters, None)


@dataclass(frozen=True, slots=True)
class Services:
    """The settings, the topic that is written, the producer, the lookups, the dead letters."""

    settings: Settings
    registrations: TopicSpec
    producer: SendsRecords
    lookups: FindsUsers
    dead_letters: ReadsDeadLetters = _NOT_GIVEN

    async def write(self, user_id: str, wish: Wish) -> Position:
        """Send a registration, an update or (None) an erasure of a user.

        Return its position once the broker has acknowledged it.
        """
        key = encode_key(user_id)
        partition = partition_of(key, self.registrations.partitions)
        value = None if wish is None else encode(wish)
        record = Outgoing(self.registrations.name, partition, key, value)
        return Position(partition, await self.producer.send(record))

    async def wait(self, position: Position, seconds: float) -> Told:
        """Return what became of a write within a time; it is durable, whatever happens to us."""
        pending = Told(position, Outcome.PENDING)
        if not seconds:
            return pending
        try:
            return await self.lookups.settled(position, seconds) or pending
        except NotReadyError:
            return pending


SERVICES = web.AppKey("services", Services)


def services(request: web.Request) -> Services:
    """Return the services of the application that a request came to."""
    return request.app[SERVICES]
