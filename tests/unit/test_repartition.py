"""What a worker does while its registry is repartitioned, without a broker."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from faust.types import TP
from pydantic import SecretStr

from app.config.settings import Settings
from app.domain.errors import NotWrittenError, SettingsError
from app.kafka.partitioning import Change, Partitioning, Step
from app.kafka.topics.declaration import TopicSpec
from app.kafka.topics.planning import Action, Found, steps
from app.system import handed_sockets
from app.worker import repartitioning
from app.worker.repartitioning import Watching
from app.worker.restart import Restart

NOW = Partitioning(partitions=2)


@dataclass
class Worker:
    """Notes what it is to do."""

    is_held: bool = False
    ends: dict[TP, int] = field(default_factory=dict)
    restarts: int = 0

    def hold(self, *, are_held: bool) -> None:
        """Note it."""
        self.is_held = are_held

    def end_at(self, ends: Mapping[TP, int]) -> None:
        """Note it."""
        self.ends = dict(ends)

    def restart(self) -> None:
        """Count it."""
        self.restarts += 1


def change(step: Step, *ends: int) -> Partitioning:
    """Return that a change is so far."""
    return NOW.changing(Change(partitions=4, step=step, ends=ends))


def test_the_secret_that_a_registry_began_with_stays_its_own() -> None:
    """Also over a repartition: by another one, each address would have another key."""
    begun = NOW.with_secret(Settings(email_secret=SecretStr("a secret of sixteen letters")))
    other = Settings(email_secret=SecretStr("and another one, as long as that"))
    for standing in (begun, begun.split(4, {}), begun.changing(None)):
        with pytest.raises(SettingsError, match="began with another one"):
            standing.require_secret(other)
    begun.require_secret(Settings(email_secret=SecretStr("a secret of sixteen letters")))
    NOW.require_secret(other)  # a registry of version 0.8


async def test_writes_are_held_and_sources_end_while_a_change_says_so() -> None:
    worker = Worker()
    watch = Watching(Settings(), "users", worker)
    watch.follow(NOW)
    watch.follow(change(Step.COPYING))
    assert (worker.is_held, worker.ends) == (False, {})
    watch.follow(change(Step.HOLDING))
    assert (worker.is_held, worker.ends) == (True, {})
    watch.follow(change(Step.DRAINING, 7, 9))
    assert (worker.is_held, worker.ends) == (True, {TP("users", 0): 7, TP("users", 1): 9})
    watch.follow(NOW)
    assert (worker.is_held, worker.ends, worker.restarts) == (False, {}, 0)


async def test_another_generation_restarts_the_worker() -> None:
    worker = Worker()
    Watching(Settings(), "users", worker).follow(NOW.split(4, {}))
    assert worker.restarts == 1
    of_it = Watching(Settings().partitioned(4, 1), "users", worker)
    of_it.follow(NOW.split(4, {}))
    assert worker.restarts == 1


async def test_a_sealed_table_goes_on_only_once_nothing_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, found = Worker(), [change(Step.DRAINING), NOW.split(4, {}), NOW]

    async def read(_: Settings) -> Partitioning:
        return found.pop(0)

    monkeypatch.setattr(repartitioning, "read", read)
    watch = Watching(Settings(), "users", worker)
    with pytest.raises(NotWrittenError, match="is being repartitioned"):
        await watch.require_current()
    with pytest.raises(NotWrittenError, match="this worker restarts"):
        await watch.require_current()
    assert worker.restarts == 1
    await watch.require_current()


def test_topics_grow_only_once_the_tables_are_made_for_it() -> None:
    spec, there = TopicSpec("t", 4, -1, {"a": "1"}), {"t": Found([[1], [1]], {})}
    refused = steps([spec], there, [1])
    assert [step.action for step in refused] == [Action.REFUSE]
    grown = steps([spec], there, [1], may_grow=True)
    assert [step.line() for step in grown] == [
        "grow    t: partitions: 2 -> 4",
        "alter   t: a: unset -> 1",
    ]
    fewer = steps([TopicSpec("t", 1, -1)], there, [1], may_grow=True)
    assert [step.action for step in fewer] == [Action.REFUSE]


def test_a_restart_hands_over_what_is_listened_on() -> None:
    asked: list[Any] = []
    begun = Restart(lambda: asked.append("begun"))
    begun.end()
    assert asked == []
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(os, "kill", lambda *signal: None)
        patch.setattr(os, "dup2", lambda kept, number, inheritable: asked.append(number))
        patch.setattr(os, "execve", lambda *given: asked.append(given[2]["LISTEN_FDNAMES"]))
        begun.listening = lambda: [(listening.fileno(), "public")]
        begun.begin()
        begun.begin()  # once is enough
        begun.end()
    os.close(begun._kept[0][0])
    assert asked == ["begun", 3, "public"]


def test_sockets_are_inherited_by_the_process_that_they_are_meant_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed_sockets.inherited.cache_clear()
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert cast(Any, handed_sockets.inherited)() == []
    handed_sockets.inherited.cache_clear()
