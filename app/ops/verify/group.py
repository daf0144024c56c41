"""Reads from the consumer group how far the sources were applied.

A transaction commits these offsets with the marker. So a marker that is behind them was lost.
Without this check, an empty changelog would look like that of a new registry. The group forgets its
offsets a week after its last member left. Then nothing is compared.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aiokafka.errors import GroupAuthorizationFailedError, KafkaError
from faust.types import TP

from app.config.settings import Settings
from app.engine.barrier import Barrier
from app.kafka.cluster import Cluster
from app.kafka.partition_reader import Reader
from app.kafka.topics import ADMIN_TIMEOUT_SECONDS, Topics
from app.ops.verify.findings import Findings

#: The pause before pending offsets are asked for again.
AGAIN_SECONDS = 0.1


async def applied_by_group(
    settings: Settings, topics: Topics, findings: Findings
) -> Mapping[TP, int]:
    """Return how far each source was applied, as far as the group knows."""
    specs = (topics.user_registrations, topics.email_claims, topics.email_decisions)
    sources = [TP(spec.name, number) for spec in specs for number in range(spec.partitions)]
    cluster = Cluster(settings.kafka)
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await cluster.start()
            barrier = Barrier(cluster, settings.app_id)
            while (found := await _committed(barrier, sources)) is None:
                await asyncio.sleep(AGAIN_SECONDS)
            return found
    except GroupAuthorizationFailedError:
        findings.unchecked.append(
            f"this user may not describe the group {settings.app_id}: whether a changelog has lost "
            "something is not known"
        )
        return {}
    finally:
        await cluster.close()


async def _committed(barrier: Barrier, sources: Sequence[TP]) -> Mapping[TP, int] | None:
    """Return the committed offsets; None while they are pending, or the coordinator moves."""
    try:
        return await barrier.committed(sources)
    except KafkaError as error:
        if not error.retriable:
            raise
        return None


async def until_decided(topics: Topics, committed: Reader, everything: Reader) -> None:
    """Wait until the transactions have ended that are open in changelogs now."""
    for changelog in (topics.users_changelog, topics.emails_changelog):
        for extent in await everything.extents(changelog):
            end = replace(extent, start=max(extent.start, extent.end - 1))
            async for _ in committed.read(end):
                pass
