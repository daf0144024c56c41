"""The fence of the write path: after it, the broker refuses what this worker sent before.

A connection that is given up may still deliver: bytes wait in the kernel, in a slow network, or in
the socket of a broker that is suspended. Plain idempotent batches carry a producer id and an epoch
that belong to a transactional id. Where something may still be under way, the partition is added
to a transaction that has no records, and InitProducerId ends it: the coordinator writes an abort
marker with the next epoch into the partition. Its leader refuses every earlier epoch from then on,
whether or not a record is ever written there again. See docs/decisions/write-fence.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    NoError,
    for_code,
)
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, InitProducerIdRequest

from app.engine.protocol import PRODUCER_FENCED, ProducerIdentity

log = structlog.get_logger(__name__)

#: A transaction without records, of a worker that died before it ended it, is ended after this.
TRANSACTION_TIMEOUT_MS = 10_000
#: The first and the longest pause while the coordinator writes markers; they double.
MARKERS_SECONDS = (0.002, 0.05)

#: Answers that tell that the coordinator knows a newer identity, or none.
_NOT_THE_LAST = {InvalidProducerEpoch.errno, InvalidProducerIdMapping.errno, PRODUCER_FENCED}

_Ask = Callable[[Any], Awaitable[Any]]


class WriteFence:
    """Obtains the write path's identities; each one fences those before it."""

    def __init__(self, transactional_id: str, topic: str) -> None:
        self._transactional_id = transactional_id
        self._topic = topic
        self._identity: ProducerIdentity | None = None

    async def renew(
        self, client: AIOKafkaClient, partitions: Collection[int]
    ) -> tuple[ProducerIdentity, bool]:
        """Return a new identity, and whether all earlier ones are fenced in these partitions.

        They are not if the broker has forgotten the id that they had. Raises `KafkaError`.
        """
        node = await client.coordinator_lookup(CoordinationType.TRANSACTION, self._transactional_id)
        ask = partial(client.send, node, group=ConnectionGroup.COORDINATION)
        before = self._identity
        if before is None:
            before = self._identity = await self._next(ask)
            if before.epoch == 0:
                return before, True  # nobody has used it
        is_known = True
        if partitions and not await self._add(ask, before, partitions):
            log.warning("the broker knows a newer identity of this worker's writes")
            renewed = await self._next(ask)
            is_known = renewed.id == before.id
            await self._add(ask, renewed, partitions)
        # If a transaction is open, this ends it, and waits until all its markers are written.
        self._identity = await self._next(ask)
        return self._identity, is_known

    async def _add(
        self, ask: _Ask, identity: ProducerIdentity, partitions: Collection[int]
    ) -> bool:
        """Open a transaction over partitions; return False if the identity is not the last one."""
        topics = [(self._topic, sorted(partitions))]
        request = AddPartitionsToTxnRequest(self._transactional_id, *identity, topics)
        while True:
            answer = await ask(request)
            codes = {code for _, errors in answer.errors for _, code in errors}
            if codes <= {NoError.errno}:
                return True
            if codes & _NOT_THE_LAST:
                return False
            if codes != {ConcurrentTransactions.errno}:
                raise for_code(max(codes))()
            await asyncio.sleep(MARKERS_SECONDS[-1])

    async def _next(self, ask: _Ask) -> ProducerIdentity:
        request = InitProducerIdRequest(self._transactional_id, TRANSACTION_TIMEOUT_MS)
        pause, longest = MARKERS_SECONDS
        while True:
            answer = await ask(request)
            if answer.error_code == NoError.errno:
                return ProducerIdentity(answer.producer_id, answer.producer_epoch)
            if answer.error_code != ConcurrentTransactions.errno:
                raise for_code(answer.error_code)()
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
