"""The barrier: a new owner waits here before it reads the changelog of a partition.

The order matters (KIP-447). First, no offset of the sources may be pending in an open transaction:
then no transaction of an older generation can be committed any more. Second, ask for the
changelog's high watermark: an earlier one could be below rows that were committed meanwhile. Third,
wait until all transactions below the watermark are decided.

The open transaction of a dead worker delays this until the broker aborts it. If that worker is not
in the group, its transaction is ended here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any

import structlog
from aiokafka.errors import for_code
from faust.types import TP

from app.domain.errors import UndecidedError
from app.kafka import protocol
from app.kafka.cluster import GROUP, Cluster
from app.kafka.protocol import Call
from app.kafka.transactional_ids import (
    UNDER_WAY,
    TransactionalId,
    command_ids,
    worker_id,
    written_in,
)

log = structlog.get_logger(__name__)

#: Returns whether a condition holds now.
Holds = Callable[[], Awaitable[bool]]

LOOK_SECONDS = 0.02
#: How long a transaction may delay a new owner before its worker is looked up.
PATIENCE_SECONDS = 1.0
#: The time-out of a transaction under a fenced id. None is ever begun.
FENCE_TIMEOUT_MS = 10_000
#: How long a new owner waits before it begins again, so that no hanging request stops it silently.
BARRIER_SECONDS = 12.0


class Barrier:
    """Waits until no earlier owner can commit anything."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster = cluster
        self._group = group

    async def end_of(self, changelog: TP, sources: Sequence[TP]) -> int:
        """Return the offset up to which a new owner must read a changelog.

        Raises `KafkaError` if a broker does not answer, and `TimeoutError` after a while. The
        caller logs it and tries again.
        """
        async with asyncio.timeout(BARRIER_SECONDS):
            return await self._end_of(changelog, sources)

    async def _end_of(self, changelog: TP, sources: Sequence[TP]) -> int:
        while True:
            while not await self._in_time(partial(self._are_stable, sources)):
                left = await end_abandoned(self._cluster, self._group, changelog)
                _say_that_it_waits(changelog, "offsets of its sources are pending", left)
            end = (await self._cluster.ends([changelog]))[changelog]
            if await self._in_time(partial(self._is_decided, changelog, end)):
                return end
            left = await end_abandoned(self._cluster, self._group, changelog)
            _say_that_it_waits(changelog, "a transaction in it is open", left)

    @staticmethod
    async def _in_time(holds: Holds) -> bool:
        deadline = monotonic() + PATIENCE_SECONDS
        while not await holds():
            if monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    async def committed(self, sources: Sequence[TP]) -> Mapping[TP, int] | None:
        """Return the offsets that the group has committed; None while some are pending."""
        topics: list[Any] = [(topic, numbers, {}) for topic, numbers in protocol.by_topic(sources)]
        call = Call(protocol.OffsetFetch, (self._group, topics, True, {}))
        answer = await self._cluster.coordinate(GROUP, self._group, call)
        errors = [answer.error_code]
        errors += [error for _, found, _ in answer.topics for _, _, _, _, error, _ in found]
        for error_code in errors:
            if error_code == protocol.UNSTABLE_OFFSET_COMMIT:
                return None
            if error_code:
                self._cluster.forget_coordinator(GROUP, self._group)
                raise for_code(error_code)(self._group)
        found = ((topic, each) for topic, some, _ in answer.topics for each in some)
        return {TP(topic, each[0]): each[1] for topic, each in found if each[1] >= 0}

    async def _are_stable(self, sources: Sequence[TP]) -> bool:
        return await self.committed(sources) is not None

    async def _is_decided(self, changelog: TP, end: int) -> bool:
        return (await self._cluster.stable_ends([changelog]))[changelog] >= end


def _say_that_it_waits(changelog: TP, why: str, at_work: Collection[str]) -> None:
    log.info(
        "a new owner waits for a transaction to end",
        changelog=changelog.topic,
        partition=changelog.partition,
        because=why,
        at_work=sorted(at_work),
    )


async def worker_ids(cluster: Cluster, group: str) -> set[str]:
    """Return the transactional ids of the workers in the group.

    No other worker can commit anything: the broker refuses it by its generation.
    """
    _, members = await describe_group(cluster, group)
    return {worker_id(group, name) for _, name, *_ in members if name}


async def describe_group(cluster: Cluster, group: str) -> tuple[str, Sequence[Any]]:
    """Return the protocol and the members of a group. It has no protocol while members join.

    Raises `KafkaError` if its coordinator moves, or refuses to tell.
    """
    answer = await cluster.coordinate(GROUP, group, Call(protocol.DescribeGroups, ([group], False)))
    ((error_code, _, _, _, name, members, _),) = answer.groups
    if error_code:
        cluster.forget_coordinator(GROUP, group)
        raise for_code(error_code)(group)
    return name or "", members


async def fence(cluster: Cluster, transactional_id: str) -> None:
    """End the open transaction of an id. Its producer can write nothing more.

    The caller sets a limit.
    """
    await TransactionalId(cluster, transactional_id, FENCE_TIMEOUT_MS).next_identity()


async def end_abandoned(cluster: Cluster, group: str, tp: TP) -> set[str]:
    """End the transactions in a partition that no worker in the group will end.

    These are transactions of workers that left, and those that the coordinator takes for ended.
    Returns the transactional ids that are still at work there. Raises `UndecidedError` if nobody
    knows how a transaction ended.
    """
    found = await _open_in(cluster, tp)
    if not found:
        return set()
    under_way: set[tuple[str, int]] = set()
    ended: set[tuple[str, int]] = set()
    for answer in await cluster.ask_all(Call(protocol.ListTransactions, ([], list(found), {}))):
        if answer.error_code:
            raise for_code(answer.error_code)()
        for name, producer, state, _ in answer.transactions:
            (under_way if state in UNDER_WAY else ended).add((name, producer))
    busy = {producer for _, producer in under_way}
    # A transaction that ended between the two questions is not open any more.
    skipped = {each for each in await _still_open(cluster, tp, found) if each[0] not in busy}
    workers = {name for name, _ in under_way if name.startswith(f"{group}-")}
    abandoned = workers - command_ids(group) - await worker_ids(cluster, group)
    abandoned |= {name for name, producer in ended if producer in dict(skipped)}
    for transactional_id in abandoned:
        log.info("a transaction that its worker has left open is ended", id=transactional_id)
        await fence(cluster, transactional_id)
    for producer, _ in await _still_open(cluster, tp, dict(skipped)):
        raise UndecidedError(
            f"{tp.topic}, partition {tp.partition}: a transaction of producer {producer} is open, "
            "and its coordinator does not know any more how it ended; see docs/operations.md"
        )
    return {name for name, _ in under_way} - abandoned


async def _still_open(cluster: Cluster, tp: TP, found: Mapping[int, int]) -> set[tuple[int, int]]:
    return found.items() & (await _open_in(cluster, tp)).items() if found else set()


async def _open_in(cluster: Cluster, tp: TP) -> Mapping[int, int]:
    """Return where the open transactions in a partition begin, by producer id."""
    found = (await written_in(cluster, [tp])).get(tp, ())
    return {each.producer.id: at for each in found if (at := each.open_from) is not None}
