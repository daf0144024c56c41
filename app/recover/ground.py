"""What all ways out stand on: the brokers, no worker in the group, and who does it."""

import getpass
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from aiokafka.errors import KafkaError
from faust.types import TP

from app.engine.barrier import describe_group
from app.engine.changelog import newest_marker
from app.engine.cluster import Cluster
from app.engine.marker import Marker
from app.engine.transactional_ids import command_id
from app.engine.transactions import FencedProducer
from app.errors import SettingsError
from app.partitioning import standing
from app.refusals import unusable
from app.settings import Settings
from app.topics import Topics, declare, ensure

log = structlog.get_logger(__name__)

#: Is told what will be done; returns whether it shall.
Agrees = Callable[[Sequence[str]], bool]


@dataclass(frozen=True, slots=True)
class Ground:
    """A registry in which no worker runs."""

    settings: Settings
    topics: Topics
    cluster: Cluster
    #: Writes what is decided.
    producer: FencedProducer

    async def marker_in(self, changelog: TP) -> Marker | None:
        """Return the newest marker of a changelog."""
        begin = (await self.cluster.starts([changelog]))[changelog]
        end = (await self.cluster.stable_ends([changelog]))[changelog]
        return await newest_marker(self.cluster, changelog, begin, end)


@asynccontextmanager
async def ground(settings: Settings) -> AsyncIterator[Ground]:
    """Yield the registry; raise `SettingsError` if a worker is in the group.

    Topics that are missing are made. Nothing that was begun before can be committed any more.
    """
    await ensure(settings)
    settings = await standing(settings)
    topics = declare(settings)
    names = [spec.name for spec in topics.all()]
    cluster = Cluster(settings.kafka, names)
    producer = FencedProducer(settings.kafka, command_id(settings.app_id, "recover"), names)
    try:
        await cluster.start()
        _, members = await describe_group(cluster, settings.app_id)
        if members:
            raise SettingsError(
                f"APP_ID: workers are in the group {settings.app_id}: stop them all, and wait "
                "until their sessions are over"
            )
        await producer.start()
        yield Ground(settings, topics, cluster, producer)
    except (KafkaError, TimeoutError) as error:
        raise unusable(settings.kafka, error) from None
    finally:
        await producer.close()
        await cluster.close()


def note(what: str) -> None:
    """Write to the log who has done what."""
    log.warning("recovered", what=what, by=getpass.getuser(), host=socket.gethostname())
