"""Connections to the brokers: finds leaders and coordinators, and sends requests to them.

It uses aiokafka's client to connect and to log in. The requests are in `app.kafka.protocol`.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping
from typing import Any, cast

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    for_code,
)
from aiokafka.protocol.coordination import FindCoordinatorRequest
from faust.types import TP

from app.config.connection import Connection
from app.kafka import protocol
from app.kafka.protocol import READ_COMMITTED, READ_UNCOMMITTED, Call, TopicId
from app.system import retries

#: The kind of a coordinator.
GROUP, TRANSACTION = 0, 1

#: In place of a broker's number.
NO_LEADER = -1

#: Coordinators get their own connections, so that a request to them never waits behind records.
DATA, COORDINATION = ConnectionGroup.DEFAULT, ConnectionGroup.COORDINATION

#: How long one request may take, beyond the time that the broker may wait.
REQUEST_TIMEOUT_SECONDS = 15.0


class Cluster:
    """The brokers of one cluster, seen by one client."""

    def __init__(self, connection: Connection, topics: Iterable[str] = ()) -> None:
        self._connection = connection
        self._topics = set(topics)
        self._client: Any = None
        self._leaders: dict[TP, int] = {}
        self._ids: dict[str, TopicId] = {}
        self._names: dict[TopicId, str] = {}
        self._coordinators: dict[tuple[int, str], int] = {}

    # -- its life

    async def start(self) -> None:
        """Connect to the first broker that answers; raise `KafkaError` if none does."""
        if self._client is None:
            client = AIOKafkaClient(
                **self._connection.client(),
                request_timeout_ms=int(REQUEST_TIMEOUT_SECONDS * 1000),
            )
            try:
                await client.bootstrap()
            except BaseException:
                await client.close()
                raise
            self._client = client
        await self.refresh()

    async def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # -- what is known

    async def refresh(self, topics: Iterable[str] = ()) -> None:
        """Ask again for the leaders of all topics, and remember more topics."""
        self._topics.update(topics)
        if not self._topics:
            return
        _, errors = await self._look(self._topics)
        if errors:
            raise errors[0]

    async def places(self, *more: str) -> Mapping[TP, int]:
        """Return the leaders of all topics, and of more, as far as this user may see them."""
        leaders, _ = await self._look({*self._topics, *more})
        return leaders

    async def _look(self, topics: Iterable[str]) -> tuple[Mapping[TP, int], list[KafkaError]]:
        asked: list[Any] = [(0, 0, name, {}) for name in sorted(topics)]
        answer = await self.ask(Call(protocol.Metadata, (asked, False, False, False, {})))
        leaders: dict[TP, int] = {}
        errors = []
        for error_code, name, high, low, _, partitions, _, _ in answer.topics:
            if error_code:
                errors.append(for_code(error_code)(name))
                continue
            topic_id = high.to_bytes(8, "big", signed=True) + low.to_bytes(8, "big", signed=True)
            self._ids[name], self._names[topic_id] = topic_id, name
            for _, number, leader, _, _, _, _, _ in partitions:
                leaders[TP(name, number)] = leader
        self._leaders |= leaders
        if any(node not in self._nodes() for node in leaders.values() if node >= 0):
            await self._client.force_metadata_update()
        return leaders, errors

    def leader(self, tp: TP) -> int:
        """Return the broker that leads a partition; raise `NodeNotReadyError` if it is unknown."""
        leader = self.leader_or_none(tp)
        if leader == NO_LEADER:
            raise NodeNotReadyError(f"no broker leads {tp.topic}, partition {tp.partition}")
        return leader

    async def require_leaders(self, partitions: Iterable[TP]) -> None:
        """Ask for leaders if that of a partition is unknown."""
        unknown = {tp.topic for tp in partitions if self.leader_or_none(tp) == NO_LEADER}
        if unknown:
            await self.refresh(unknown)

    def leader_or_none(self, tp: TP) -> int:
        """Return the broker that leads a partition, or `NO_LEADER`."""
        return self._leaders.get(tp, NO_LEADER)

    def topic_id(self, topic: str) -> TopicId:
        """Return the id of a topic, as of the last question."""
        return self._ids[topic]

    def topic_of(self, topic_id: TopicId) -> str:
        """Return the name of a topic."""
        return self._names[topic_id]

    def _nodes(self) -> list[int]:
        return [broker.nodeId for broker in self._client.cluster.brokers()]

    # -- sending

    async def send(self, node: int, call: Any, group: Any = DATA) -> Any:
        """Return a broker's answer; raise `KafkaError` if none comes."""
        if self._client is None:
            raise NodeNotReadyError("the client is closed")
        return await self._client.send(node, call, group=group)

    async def ask(self, call: Any) -> Any:
        """Return the answer of any broker. Some may be away."""
        nodes = [] if self._client is None else self._nodes()
        random.shuffle(nodes)
        failure: KafkaError = NodeNotReadyError("no broker is known")
        for node in nodes:
            try:
                return await self.send(node, call)
            except (NodeNotReadyError, KafkaConnectionError) as error:
                failure = error
        raise failure

    async def ask_all(self, call: Any) -> list[Any]:
        """Return every broker's answer."""
        return list(await asyncio.gather(*(self.send(node, call) for node in self._nodes())))

    async def coordinate(self, kind: int, key: str, call: Any, group: Any = COORDINATION) -> Any:
        """Return the answer of the coordinator of a group or of a transactional id."""
        node = self._coordinators.get((kind, key))
        if node is None:
            found = await self._find_coordinator(kind, key)
            node = self._coordinators[kind, key] = found.coordinator_id
            if node not in self._nodes():
                await self._client.force_metadata_update()
        try:
            return await self.send(node, call, group)
        except KafkaError:
            self.forget_coordinator(kind, key)
            raise

    async def _find_coordinator(self, kind: int, key: str) -> Any:
        """Return the coordinator. A new cluster creates its topic first."""
        asking = retries.COORDINATOR.attempts(GroupCoordinatorNotAvailableError)
        return await asking(self._ask_for_coordinator, kind, key)

    async def _ask_for_coordinator(self, kind: int, key: str) -> Any:
        found = await self.ask(FindCoordinatorRequest(key, kind))
        if found.error_code:
            raise for_code(found.error_code)(key)
        return found

    def forget_coordinator(self, kind: int, key: str) -> None:
        """Look up the coordinator again before the next request."""
        self._coordinators.pop((kind, key), None)

    # -- offsets

    async def starts(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return where the logs of partitions begin."""
        return await self._offsets(partitions, protocol.EARLIEST, READ_UNCOMMITTED)

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return the high watermarks of partitions. Records of open transactions are below them."""
        return await self._offsets(partitions, protocol.LATEST, READ_UNCOMMITTED)

    async def stable_ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return the last stable offsets of partitions. No transaction is open below them."""
        return await self._offsets(partitions, protocol.LATEST, READ_COMMITTED)

    async def _offsets(
        self, partitions: Iterable[TP], which: int, isolation_level: int
    ) -> Mapping[TP, int]:
        by_leader: dict[int, list[TP]] = {}
        for tp in partitions:
            by_leader.setdefault(self.leader(tp), []).append(tp)
        answers = await asyncio.gather(
            *(
                self.send(leader, _list_offsets(tps, which, isolation_level))
                for leader, tps in by_leader.items()
            )
        )
        offsets = {}
        for answer in answers:
            for topic, found in answer.topics:
                for number, error_code, _, offset in found:
                    if error_code:
                        raise cast(KafkaError, for_code(error_code)(topic))
                    offsets[TP(topic, number)] = offset
        return offsets


def _list_offsets(partitions: Iterable[TP], which: int, isolation_level: int) -> Call:
    topics = [
        (topic, [(number, which) for number in numbers])
        for topic, numbers in protocol.by_topic(partitions)
    ]
    return Call(protocol.ListOffsets, (-1, bool(isolation_level), topics))
