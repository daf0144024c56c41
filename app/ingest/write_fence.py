"""The fence of the write path: after it, the broker refuses earlier sends of this worker.

A connection that is given up may still deliver: bytes wait in the kernel, in a slow network, or in
the socket of a broker that is suspended. Plain idempotent batches carry a producer id and an epoch
that belong to a transactional id. Where something may still be under way, the partition is added
to a transaction that has no records, and InitProducerId ends it: the coordinator writes an abort
marker with the next epoch into the partition. Its leader refuses every earlier epoch from then on,
whether or not a record is ever written there again. See docs/decisions/write-fence.md.
"""

from collections.abc import Collection

import structlog
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    LeaderNotAvailableError,
    for_code,
)
from faust.types import TP

from app.config.connection import Connection
from app.kafka.cluster import Cluster
from app.kafka.protocol import PRODUCER_FENCED, ProducerIdentity, add_partitions
from app.kafka.transactional_ids import TransactionalId, written_in

log = structlog.get_logger(__name__)

#: A transaction without records, of a worker that died before it ended it, is ended after this.
TRANSACTION_TIMEOUT_MS = 10_000

#: Answers that tell that the coordinator knows a newer identity, or none.
_NOT_THE_LAST = {InvalidProducerEpoch.errno, InvalidProducerIdMapping.errno, PRODUCER_FENCED}


class WriteFence:
    """Obtains the write path's identities; each one fences those before it."""

    def __init__(self, connection: Connection, transactional_id: str, topic: str) -> None:
        self._connection = connection
        self._transactional_id = transactional_id
        self._topic = topic
        self._identity: ProducerIdentity | None = None

    async def renew(self, partitions: Collection[int]) -> tuple[ProducerIdentity, bool]:
        """Return a new identity, and whether all earlier ones are fenced in these partitions.

        They are not if the broker has forgotten the id that they had. It takes connections of its
        own. Raises `KafkaError` if the fence may not be there; who calls it sets a limit.
        """
        cluster = Cluster(self._connection, [self._topic])
        try:
            await cluster.start()
            return await self._renew(cluster, [TP(self._topic, each) for each in partitions])
        finally:
            await cluster.close()

    async def _renew(
        self, cluster: Cluster, partitions: Collection[TP]
    ) -> tuple[ProducerIdentity, bool]:
        of = TransactionalId(cluster, self._transactional_id, TRANSACTION_TIMEOUT_MS)
        before = self._identity
        if before is None:
            before = self._identity = await of.next_identity()
            if before.epoch == 0:
                return before, True  # nobody has used it
        is_known = True
        if partitions and not await _add(of, before, partitions):
            log.warning("the broker knows a newer identity of this worker's writes")
            renewed = await of.next_identity()
            is_known, before = renewed.id == before.id, renewed
            await _add(of, before, partitions)
        # If a transaction is open, this ends it, and waits until all its markers are written.
        self._identity = await of.next_identity()
        await _require_markers(cluster, before, partitions)
        return self._identity, is_known


async def _add(of: TransactionalId, identity: ProducerIdentity, partitions: Collection[TP]) -> bool:
    """Open a transaction over partitions; return False if the identity is not the last one."""
    answer = await of.when_ended(add_partitions(of.name, identity, partitions))
    if answer.error_code and answer.error_code not in _NOT_THE_LAST:
        raise for_code(answer.error_code)()
    return not answer.error_code


async def _require_markers(
    cluster: Cluster, before: ProducerIdentity, partitions: Collection[TP]
) -> None:
    """Raise `LeaderNotAvailableError` if a partition would take a batch of an identity still.

    A coordinator passes partitions over that have no leader: see `app.kafka.transactional_ids`.
    """
    await cluster.refresh()
    found = await written_in(cluster, partitions)
    for tp in partitions:
        epochs = [
            each.producer.epoch for each in found.get(tp, ()) if each.producer.id == before.id
        ]
        if max(epochs, default=-1) <= before.epoch:
            raise LeaderNotAvailableError(tp.topic)
