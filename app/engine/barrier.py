"""The barrier: what a new owner of a partition waits for before it reads the partition's changelog.

In this order (KIP-447): first no offset of the sources may be pending in an open transaction; then
no transaction of an older generation can be committed any more. Only then the changelog's high
watermark is asked for: an earlier one could be below rows that were committed meanwhile. Then all
transactions below that watermark must be decided.

A transaction of a worker that has died holds this up until the broker ends it. If its worker is not
in the group, it is ended here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import structlog
from aiokafka.errors import for_code
from aiokafka.protocol.transaction import InitProducerIdRequest
from faust.types import TP

from app.engine import protocol
from app.engine.cluster import GROUP, TRANSACTION, Cluster
from app.engine.protocol import Call

log = structlog.get_logger(__name__)

#: Tells whether something holds by now.
Holds = Callable[[], Awaitable[bool]]

LOOK_SECONDS = 0.02
#: How long a transaction may hold a new owner up before it is looked whose it is.
PATIENCE_SECONDS = 1.0
#: How long a new owner waits before it begins anew: nothing that hangs may hold it up in silence.
BARRIER_SECONDS = 12.0


def worker_id(app_id: str, member_name: str) -> str:
    """Return the transactional id of a worker."""
    return f"{app_id}-{member_name}"


def command_id(app_id: str) -> str:
    """Return the transactional id of the command that writes to changelogs: `repartition`."""
    return f"{app_id}-repartition"


class Barrier:
    """Tells when nothing of an earlier owner can be committed any more."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster = cluster
        self._group = group

    async def end_of(self, changelog: TP, sources: Sequence[TP]) -> int:
        """Return up to where a new owner must read a changelog to have everything.

        Raises `KafkaError` if a broker does not answer, and `TimeoutError` after a while: whoever
        opens a partition says so, and tries again.
        """
        async with asyncio.timeout(BARRIER_SECONDS):
            return await self._end_of(changelog, sources)

    async def _end_of(self, changelog: TP, sources: Sequence[TP]) -> int:
        while True:
            while not await self._in_time(partial(self._are_stable, sources)):
                _say_that_it_waits(changelog, "offsets of its sources are pending")
                await end_abandoned(self._cluster, self._group, changelog)
            end = (await self._cluster.ends([changelog]))[changelog]
            if await self._in_time(partial(self._is_decided, changelog, end)):
                return end
            _say_that_it_waits(changelog, "a transaction in it is open")
            await end_abandoned(self._cluster, self._group, changelog)

    @staticmethod
    async def _in_time(holds: Holds) -> bool:
        deadline = monotonic() + PATIENCE_SECONDS
        while not await holds():
            if monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    async def _are_stable(self, sources: Sequence[TP]) -> bool:
        """Return whether no committed offset of the sources is pending."""
        topics: list[Any] = [(topic, numbers, {}) for topic, numbers in protocol.by_topic(sources)]
        call = Call(protocol.OffsetFetch, (self._group, topics, True, {}))
        answer = await self._cluster.coordinate(GROUP, self._group, call)
        errors = [answer.error_code]
        errors += [error for _, found, _ in answer.topics for _, _, _, _, error, _ in found]
        for error_code in errors:
            if error_code == protocol.UNSTABLE_OFFSET_COMMIT:
                return False
            if error_code:
                self._cluster.forget_coordinator(GROUP, self._group)
                raise for_code(error_code)(self._group)
        return True

    async def _is_decided(self, changelog: TP, end: int) -> bool:
        return (await self._cluster.stable_ends([changelog]))[changelog] >= end


def _say_that_it_waits(changelog: TP, why: str) -> None:
    log.info(
        "a new owner waits for a transaction to end",
        changelog=changelog.topic,
        partition=changelog.partition,
        because=why,
    )


async def worker_ids(cluster: Cluster, group: str) -> set[str]:
    """Return the transactional ids of the workers that are in the group.

    No other worker can commit anything: the broker refuses it by its generation.
    """
    answer = await cluster.coordinate(GROUP, group, Call(protocol.DescribeGroups, ([group], False)))
    ((error_code, _, _, _, _, members, _),) = answer.groups
    if error_code:
        cluster.forget_coordinator(GROUP, group)
        raise for_code(error_code)(group)
    names = (instance_id for _, instance_id, _, _, _, _ in members)
    return {worker_id(group, name) for name in names if name}


async def fence(cluster: Cluster, transactional_id: str) -> None:
    """End what is open under a transactional id; its producer can write nothing more."""
    for _ in range(100):
        answer = await cluster.coordinate(
            TRANSACTION, transactional_id, InitProducerIdRequest(transactional_id, 10_000)
        )
        if answer.error_code != protocol.CONCURRENT_TRANSACTIONS:
            break
        await asyncio.sleep(LOOK_SECONDS)
    if answer.error_code:
        cluster.forget_coordinator(TRANSACTION, transactional_id)
        raise for_code(answer.error_code)(transactional_id)


async def end_abandoned(cluster: Cluster, group: str, changelog: TP) -> None:
    """End what a worker that is not in the group any more has left open in a changelog."""
    producers = await _open_producers(cluster, changelog)
    if not producers:
        return
    answers = await cluster.ask_all(Call(protocol.ListTransactions, ([], producers, {})))
    for answer in answers:
        if answer.error_code:
            raise for_code(answer.error_code)()
    found = {each for answer in answers for each, _, _, _ in answer.transactions}
    workers = {each for each in found if each.startswith(f"{group}-")} - {command_id(group)}
    for transactional_id in workers - await worker_ids(cluster, group):
        log.info("a transaction that its worker has left open is ended", id=transactional_id)
        await fence(cluster, transactional_id)


async def _open_producers(cluster: Cluster, changelog: TP) -> list[int]:
    """Return the producers whose transactions are open in a partition."""
    topics: list[Any] = [(changelog.topic, [changelog.partition], {})]
    call = Call(protocol.DescribeProducers, (topics, {}))
    answer = await cluster.send(cluster.leader(changelog), call)
    (((_, ((_, error_code, _, producers, _),), _),),) = (answer.topics,)
    if error_code:
        raise for_code(error_code)(changelog.topic)
    return [producer for producer, _, _, _, _, start, _ in producers if start >= 0]
