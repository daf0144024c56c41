"""What the handlers work with, given once when the web view is built."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from aiohttp import web

from app.dead_letters.recent import ReadsDeadLetters
from app.errors import NotReadyError, RegistryError
from app.keys import encode_key, partitions_of
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
        (position,) = await self.write_all([(user_id, wish)])
        if isinstance(position, RegistryError):
            raise position
        return position

    async def write_all(
        self, wishes: Sequence[tuple[str, Wish]]
    ) -> list[Position | RegistryError]:
        """Send many at once; return each one's position, or why it has none, in their order."""
        keys = [encode_key(user_id) for user_id, _ in wishes]
        partitions = partitions_of(keys, self.registrations.partitions)
        return await asyncio.gather(
            *(
                self._send(partition, key, wish)
                for partition, key, (_, wish) in zip(partitions, keys, wishes, strict=True)
            )
        )

    async def _send(self, partition: int, key: bytes, wish: Wish) -> Position | RegistryError:
        value = None if wish is None else encode(wish)
        record = Outgoing(self.registrations.name, partition, key, value)
        try:
            return Position(partition, await self.producer.send(record))
        except RegistryError as error:
            return error

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
