"""What the handlers work with, given once when the web view is built."""

from dataclasses import dataclass

from aiohttp import web

from app.keys import partition_of
from app.lookups import FindsUsers
from app.positions import Position
from app.producer import SendsRecords
from app.records import Outgoing, Registration, encode, key_of
from app.settings import Settings
from app.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class Services:
    """The settings, the topic that is written, the producer, the lookups."""

    settings: Settings
    registrations: TopicSpec
    producer: SendsRecords
    lookups: FindsUsers

    async def register(self, registration: Registration) -> Position:
        """Send a registration; return its position once the broker has acknowledged it."""
        key = key_of(registration)
        partition = partition_of(key, self.registrations.partitions)
        record = Outgoing(self.registrations.name, partition, key, encode(registration))
        return Position(partition, await self.producer.send(record))


SERVICES = web.AppKey("services", Services)


def services(request: web.Request) -> Services:
    """Return the services of the application that a request came to."""
    return request.app[SERVICES]
