"""Transactional ids: ends open transactions of an id, and gets its next epoch.

Kafka has a fault here, seen on 4.3.1 and read in its classes. When a coordinator writes the markers
of a decided transaction, it skips partitions without a leader, as if they were deleted
(`KRaftMetadataCache.getPartitionLeaderEndpoint` finds no broker for leader -1, and
`TransactionMarkerChannelManager` takes that for a deleted topic). This is common after a broker was
killed. The transaction then counts as complete, and stays open in those partitions. Readers of
committed records cannot read past it, and the next transaction of the id decides over it.

The coordinator knows how the last transaction of an id ended only until the next one begins. So a
producer checks this before it gets an identity, and writes the missing markers. If the answer is
unknown, nobody can say what is right, and the registry stops: `UndecidedError`.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import structlog
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.transaction import InitProducerIdRequest
from faust.types import TP

from app.domain.errors import UndecidedError
from app.kafka import protocol
from app.kafka.cluster import NO_LEADER, TRANSACTION, Cluster
from app.kafka.protocol import Call, ProducerIdentity
from app.system import retries

log = structlog.get_logger(__name__)

#: The topic of group offsets. A transaction that commits offsets writes there, too.
OFFSETS_TOPIC = "__consumer_offsets"

COORDINATOR_MOVES = (
    protocol.COORDINATOR_LOAD_IN_PROGRESS,
    protocol.COORDINATOR_NOT_AVAILABLE,
    protocol.NOT_COORDINATOR,
)
_ENDING = ("PrepareCommit", "PrepareAbort", "PrepareEpochFence")
_ONGOING = "Ongoing"
#: States of a transaction that may still be open in partitions.
UNDER_WAY = (_ONGOING, *_ENDING)


#: Commands that write transactions. Workers never end their transactions, because a command may be
#: running.
Command = Literal["repartition", "dead-letters", "partitioning", "recover"]


class _Decided(NamedTuple):
    """How the transactions of a producer ended, from an epoch on."""

    producer: ProducerIdentity
    since_epoch: int
    is_committed: bool

    def decides(self, each: "Written") -> bool:
        """Return whether an open transaction is one of them. Others have other epochs."""
        mine = self.since_epoch <= each.producer.epoch <= self.producer.epoch
        return mine and each.producer.id == self.producer.id and each.open_from is not None


@dataclass(frozen=True, slots=True)
class _Last:
    """The last transaction of an id, as its coordinator reports it."""

    state: str
    producer: ProducerIdentity
    #: The partitions that it writes, until it is over.
    partitions: Collection[TP] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """The state of a producer in a partition that it has written."""

    producer: ProducerIdentity
    coordinator_epoch: int
    #: Where its open transaction begins; None if there is none.
    open_from: int | None


def worker_id(app_id: str, member_name: str) -> str:
    """Return the transactional id of a worker."""
    return f"{app_id}-{member_name}"


def command_id(app_id: str, command: Command) -> str:
    """Return the transactional id of a command."""
    return f"{app_id}-{command}"


def command_ids(app_id: str) -> set[str]:
    """Return the transactional ids of all commands."""
    return {command_id(app_id, command) for command in get_args(Command)}


class TransactionalId:
    """One transactional id and its coordinator."""

    def __init__(self, cluster: Cluster, name: str, timeout_ms: int) -> None:
        self.name = name
        self._cluster = cluster
        self._timeout_ms = timeout_ms
        #: What was decided for partitions that had no leader, and could not be checked.
        self._unseen: dict[TP, _Decided] = {}

    async def coordinate(self, request: Any) -> Any:
        """Return the coordinator's answer; look it up again after a refusal."""
        answer = await self._cluster.coordinate(TRANSACTION, self.name, request)
        if answer.error_code in COORDINATOR_MOVES:
            self._cluster.forget_coordinator(TRANSACTION, self.name)
        return answer

    async def when_ended(self, request: Any) -> Any:
        """Return the coordinator's answer, as soon as the transaction before is over."""
        pauses = retries.ENDING.pauses()
        while (answer := await self.coordinate(request)).error_code == _CONCURRENT:
            await asyncio.sleep(next(pauses))
        return answer

    async def next_identity(self) -> ProducerIdentity:
        """End all open transactions, and return an identity that fences the earlier ones.

        It continues while the coordinator is busy or moves: the caller sets a limit. Raises
        `KafkaError` if a broker refuses it, and `UndecidedError` if something stays open.
        """
        pauses = retries.ENDING.pauses()
        written: set[TP] = set()
        while True:
            last = await self._last()
            if last is not None:
                written.update(last.partitions)
                if last.state not in _ENDING:
                    await self._end_skipped(last, written)
                    request = InitProducerIdRequest(self.name, self._timeout_ms)
                    answer = await self.coordinate(request)
                    if not answer.error_code:
                        break
                    if answer.error_code not in (_CONCURRENT, *COORDINATOR_MOVES):
                        raise for_code(answer.error_code)(self.name)
            await asyncio.sleep(next(pauses))
        if last.state == _ONGOING:  # it was aborted meanwhile, under the next epoch
            aborted = ProducerIdentity(last.producer.id, last.producer.epoch + 1)
            await self._end_skipped(_Last("CompleteAbort", aborted), written)
        return ProducerIdentity(answer.producer_id, answer.producer_epoch)

    async def _last(self) -> _Last | None:
        """Return the last transaction; None if the coordinator cannot tell at the moment."""
        call = Call(protocol.DescribeTransactions, ([self.name], {}))
        answer = await self._cluster.coordinate(TRANSACTION, self.name, call)
        ((error_code, _, state, _, _, *producer, topics, _),) = answer.transactions
        if error_code in COORDINATOR_MOVES:
            self._cluster.forget_coordinator(TRANSACTION, self.name)
            return None
        if error_code == protocol.TRANSACTIONAL_ID_NOT_FOUND:
            return _Last("Empty", ProducerIdentity(-1, -1))
        if error_code:
            raise for_code(error_code)(self.name)
        partitions = {TP(topic, number) for topic, numbers, _ in topics for number in numbers}
        return _Last(state, ProducerIdentity(*producer), partitions)

    # -- where a decided transaction is still open

    async def end_unseen(self) -> None:
        """Check the partitions that had no leader at the first check."""
        if self._unseen:
            await self._end_everywhere(self._unseen, await self._cluster.places(OFFSETS_TOPIC))

    async def _end_skipped(self, last: _Last, written: Collection[TP]) -> None:
        """Write the markers that a coordinator has skipped when it ended the last transaction.

        ``written``: the partitions that it wrote, if they are known. An abort begins a new epoch.
        So an open transaction of its epoch elsewhere is an earlier one, and was committed.
        """
        is_over = last.state in ("CompleteCommit", "CompleteAbort")
        if not (is_over or self._unseen):
            return
        leaders = await self._cluster.places(OFFSETS_TOPIC)
        wanted: dict[TP, _Decided] = {}
        producer = last.producer
        if last.state == "CompleteCommit":
            wanted = dict.fromkeys(leaders, _Decided(producer, producer.epoch, is_committed=True))
        elif last.state == "CompleteAbort":
            for tp in leaders:
                is_before = bool(written) and tp not in written
                wanted[tp] = _Decided(producer, producer.epoch - 1, is_before)
        await self._end_everywhere(wanted | self._unseen, leaders)

    async def _end_everywhere(
        self, wanted: Mapping[TP, _Decided], leaders: Mapping[TP, int]
    ) -> None:
        self._unseen = {tp: wanted[tp] for tp in wanted if leaders.get(tp) == NO_LEADER}
        seen = [tp for tp in wanted if leaders.get(tp, NO_LEADER) != NO_LEADER]
        for tp, found in (await written_in(self._cluster, seen)).items():
            for each in found:
                if wanted[tp].decides(each):
                    await self._end(tp, each, wanted[tp])

    async def _end(self, tp: TP, each: Written, decided: _Decided) -> None:
        log.warning(
            "a decided transaction was left open by its coordinator: it is ended",
            id=self.name,
            topic=tp.topic,
            partition=tp.partition,
            committed=decided.is_committed,
        )
        epoch = max(each.coordinator_epoch, 0)
        topics: list[Any] = [(tp.topic, [tp.partition], {})]
        markers: list[Any] = [(*decided.producer, decided.is_committed, topics, epoch, {})]
        answer = await self._cluster.send(
            self._cluster.leader(tp), Call(protocol.WriteTxnMarkers, (markers, {}))
        )
        ((_, ((_, ((_, error_code, _),), _),), _),) = answer.markers
        if error_code == protocol.CLUSTER_AUTHORIZATION_FAILED:
            done = "committed" if decided.is_committed else "aborted"
            raise UndecidedError(
                f"{tp.topic}, partition {tp.partition}: a transaction that was {done} is open "
                "still, by a fault of Kafka, and this worker has no right to end it: give its user "
                "ALTER on the cluster, and start it again; see docs/operations.md"
            )
        if error_code:
            raise for_code(error_code)(tp.topic)


_CONCURRENT = protocol.CONCURRENT_TRANSACTIONS


async def written_in(cluster: Cluster, partitions: Iterable[TP]) -> Mapping[TP, list[Written]]:
    """Return the producers of partitions; partitions that this user may not read are left out.

    Raises `KafkaError` if a leader does not answer.
    """
    by_leader: dict[int, list[TP]] = {}
    for tp in partitions:
        by_leader.setdefault(cluster.leader(tp), []).append(tp)
    found: dict[TP, list[Written]] = {}
    for leader, tps in by_leader.items():
        topics: list[Any] = [(topic, numbers, {}) for topic, numbers in protocol.by_topic(tps)]
        answer = await cluster.send(leader, Call(protocol.DescribeProducers, (topics, {})))
        for topic, described, _ in answer.topics:
            for number, error_code, _, producers, _ in described:
                if error_code == protocol.TOPIC_AUTHORIZATION_FAILED:
                    continue
                if error_code:
                    raise _error(error_code, topic)
                found[TP(topic, number)] = [
                    Written(
                        ProducerIdentity(producer, epoch),
                        coordinator_epoch,
                        None if start < 0 else start,
                    )
                    for producer, epoch, _, _, coordinator_epoch, start, _ in producers
                ]
    return found


def _error(error_code: int, topic: str) -> KafkaError:
    error: KafkaError = for_code(error_code)(topic)
    return error
