"""The engine's view of the brokers: of several, some may be away."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError

from app.config.connection import Connection
from app.config.settings import Settings
from app.domain.errors import BrokerUnavailableError, KafkaAccessError, SettingsError
from app.engine.consumer import GROUP_PROTOCOL
from app.kafka import acls
from app.kafka.cluster import Cluster
from app.worker import preflight


class Client:
    """Stands in for aiokafka's: three brokers, of which some answer."""

    def __init__(self, answering: set[int], failure: KafkaError) -> None:
        self.answering, self.failure = answering, failure
        self.asked: list[int] = []
        brokers = [SimpleNamespace(nodeId=node) for node in (1, 2, 3)]
        self.cluster = SimpleNamespace(brokers=lambda: brokers)

    async def send(self, node: int, call: Any, group: Any) -> str:
        self.asked.append(node)
        if node not in self.answering:
            raise self.failure
        return f"{call} of {node}"


@pytest.mark.parametrize("failure", [NodeNotReadyError(), KafkaConnectionError()])
async def test_any_broker_that_answers_will_do(failure: KafkaError) -> None:
    for _ in range(20):
        cluster = Cluster(Connection("nowhere:1"))
        cluster._client = Client({2}, failure)
        assert await cluster.ask("answer") == "answer of 2"


async def test_where_none_answers_that_is_told() -> None:
    cluster = Cluster(Connection("nowhere:1"))
    with pytest.raises(NodeNotReadyError):
        await cluster.ask("answer")
    cluster._client = client = Client(set(), KafkaConnectionError())
    with pytest.raises(KafkaConnectionError):
        await cluster.ask("answer")
    assert sorted(client.asked) == [1, 2, 3]


async def test_what_a_broker_refuses_is_not_asked_of_others() -> None:
    cluster = Cluster(Connection("nowhere:1"))
    cluster._client = client = Client(set(), KafkaError())
    with pytest.raises(KafkaError):
        await cluster.ask("answer")
    assert len(client.asked) == 1


class Group:
    """Stands in for a cluster with a group: each question hears the next of its protocols."""

    def __init__(self, *protocols: str | None) -> None:
        self.protocols = list(protocols)

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def coordinate(self, *_: Any) -> Any:
        name = self.protocols.pop(0) if len(self.protocols) > 1 else self.protocols[0]
        members = [] if name is None else ["somebody"]
        return SimpleNamespace(groups=[(0, "group", "", "consumer", name, members, 0)])


@pytest.mark.parametrize(
    ("protocols", "asked"),
    [
        ((None,), 1),
        ((GROUP_PROTOCOL,), 1),
        # The broker names none while it waits for members.
        (("", "faust", "", None), 4),
        (("", "", GROUP_PROTOCOL), 3),
    ],
)
async def test_workers_of_another_version_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, protocols: tuple[str | None, ...], asked: int
) -> None:
    group = Group(*protocols, "asked too often")
    monkeypatch.setattr(preflight, "Cluster", lambda _: group)
    monkeypatch.setattr(preflight, "LOOK_SECONDS", 0.0)
    await preflight.others_leave(Settings())
    assert len(group.protocols) == len(protocols) + 1 - asked


async def test_those_that_stay_are_told_and_members_that_never_come_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(preflight, "OTHERS_LEAVE_SECONDS", -10.0)
    monkeypatch.setattr(preflight, "Cluster", lambda _: Group("faust"))
    with pytest.raises(SettingsError, match="workers of another version are in the group"):
        await preflight.others_leave(Settings(session_timeout_seconds=10))
    monkeypatch.setattr(preflight, "Cluster", lambda _: Group(""))
    await preflight.others_leave(Settings(session_timeout_seconds=10))


async def test_a_worker_that_starts_beside_a_lost_broker_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[Exception] = [BrokerUnavailableError("one is away")] * 2

    async def ensure(_: Settings) -> None:
        if tries:
            raise tries.pop()

    async def standing(given: Settings) -> Settings:
        return given

    async def nothing(_: Settings) -> None:
        pass

    monkeypatch.setattr(preflight, "ensure", ensure)
    monkeypatch.setattr(preflight, "current_partitioning", standing)
    monkeypatch.setattr(preflight, "others_leave", nothing)
    monkeypatch.setattr(preflight, "share_secret", nothing)
    monkeypatch.setattr(acls, "require", nothing)
    monkeypatch.setattr(acls, "require_transactions", nothing)
    given = Settings()
    assert await preflight._prepared(given) is given
    tries.append(KafkaAccessError("refused"))
    with pytest.raises(KafkaAccessError):
        await preflight._prepared(given)
