"""The base of all recover commands: brokers, an empty group, the name of the operator."""

import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from aiokafka.errors import KafkaError
from faust.types import TP

from app.config.settings import Settings
from app.domain.consumed_records import ConsumedRecord
from app.domain.errors import SettingsError, TopicsError
from app.engine.barrier import describe_group
from app.engine.changelog import newest_marker
from app.engine.marker import Marker
from app.kafka.client_errors import unusable
from app.kafka.cluster import Cluster
from app.kafka.fetching import scan
from app.kafka.partitioning import read
from app.kafka.topics import Topics, declare, ensure
from app.kafka.transactional_ids import command_id
from app.kafka.transactions import FencedProducer, Sendings

log = structlog.get_logger(__name__)

#: About how much is read at once.
MAX_RECORDS, MAX_BYTES = 5_000, 4 * 1024 * 1024

#: Called with what will be done; returns whether the operator agrees.
Agrees = Callable[[Sequence[str]], bool]


@dataclass(frozen=True, slots=True)
class Ground:
    """A registry in which no worker runs."""

    settings: Settings
    topics: Topics
    cluster: Cluster
    #: Writes the operator's decision.
    producer: FencedProducer

    async def marker_in(self, changelog: TP) -> Marker | None:
        """Return the newest marker of a changelog, without a seal.

        A repartition that was given up has left the seal.
        """
        begin = (await self.cluster.starts([changelog]))[changelog]
        end = (await self.cluster.stable_ends([changelog]))[changelog]
        found = await newest_marker(self.cluster, changelog, begin, end)
        return None if found is None else found.sealed(is_sealed=False)

    async def records(self, tp: TP) -> AsyncIterator[Sequence[ConsumedRecord]]:
        """Yield all records of a partition."""
        begin = (await self.cluster.starts([tp]))[tp]
        end = (await self.cluster.stable_ends([tp]))[tp]
        async for taken in scan(self.cluster, tp, begin, end, MAX_RECORDS, MAX_BYTES):
            yield taken.records

    async def require_no_worker(self) -> None:
        """Raise `SettingsError` if a worker is in the group."""
        app_id = self.settings.app_id
        _, members = await describe_group(self.cluster, app_id)
        if members:
            raise SettingsError(
                f"APP_ID: workers are in the group {app_id}: stop them all, and wait "
                "until their sessions are over"
            )

    async def confirmed(self, lines: Sequence[str], agrees: Agrees) -> bool:
        """Return whether the operator agrees.

        Raises `TopicsError` if the registry was repartitioned while the operator was asked.
        """
        if not agrees(lines):
            return False
        now = await read(self.settings)
        now.require_no_change()
        if now.generation != self.settings.generation:
            raise TopicsError("the registry was repartitioned meanwhile: run the command again")
        return True

    async def write(self, sendings: Sendings) -> Mapping[TP, range]:
        """Write records in one transaction; return their offsets by partition.

        Raises if a worker has started while the operator was asked.
        """
        await self.require_no_worker()
        return await self.producer.write(sendings)


@asynccontextmanager
async def ground(settings: Settings) -> AsyncIterator[Ground]:
    """Yield the registry; raise `SettingsError` if a worker is in the group.

    Raises `TopicsError` while it is repartitioned or saved: the new changelogs would lack what is
    written then. Missing topics are created. Transactions that were open before are aborted.
    """
    await ensure(settings)
    now = await read(settings)
    now.require_secret(settings)
    now.require_no_change()
    settings = now.of(settings)
    topics = declare(settings)
    names = [spec.name for spec in topics.all()]
    cluster = Cluster(settings.kafka, names)
    producer = FencedProducer(settings.kafka, command_id(settings.app_id, "recover"), names)
    try:
        await cluster.start()
        given = Ground(settings, topics, cluster, producer)
        await given.require_no_worker()
        await producer.start()
        yield given
    except (KafkaError, TimeoutError) as error:
        raise unusable(settings.kafka, error) from None
    finally:
        await producer.close()
        await cluster.close()


def note(what: str) -> None:
    """Log who has done what."""
    log.warning("recovered", what=what, by=who())


def who() -> str:
    """Return the user of this process, and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have a user without a name
        user = str(os.getuid())
    return f"{user} at {socket.gethostname()}"
