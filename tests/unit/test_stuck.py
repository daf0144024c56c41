"""A worker takes its consumer for stuck only by the time in which the brokers answered."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.domain.errors import StuckError
from app.engine import consumer
from app.engine.consumer import MAX_JOIN_SECONDS, Consumer, ConsumerThread

SESSION_SECONDS = 10.0


class JoiningThread(ConsumerThread):
    """A thread that joins its group from the beginning on, and is never done."""

    def __init__(self) -> None:
        self.joins_since = 0.0

    async def why_shut_out(self) -> str | None:
        """Return that nothing is wrong."""
        return None


class JoiningConsumer:
    """What `Consumer` is while it joins: brokers are away for a while, and a clock goes on."""

    should_stop = False

    def __init__(self, away: range) -> None:
        self.partitions = SimpleNamespace(lease=SimpleNamespace(session_seconds=SESSION_SECONDS))
        self.app = self
        self.now = 0.0
        self.crashes: list[tuple[float, BaseException]] = []
        self._away = away
        self._our_thread = JoiningThread()

    async def sleep(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds
        self.should_stop = self.now > 10 * MAX_JOIN_SECONDS

    async def brokers_answer(self, _arguments: object) -> bool:
        """Return whether the brokers are there."""
        return int(self.now) not in self._away

    async def is_member(self) -> bool:
        """Return that the broker does not confirm that."""
        return False

    async def crash(self, error: BaseException) -> None:
        """Note why the worker ends."""
        self.crashes.append((self.now, error))

    def _client(self) -> dict[str, object]:
        return {}


def seconds_until_it_ends(away: range, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return when a worker ends that joins all the time."""
    joining = JoiningConsumer(away)
    monkeypatch.setattr(consumer, "time", SimpleNamespace(monotonic=lambda: joining.now))
    monkeypatch.setattr(consumer, "brokers_answer", joining.brokers_answer)
    asyncio.run(cast(Any, Consumer._notice_if_stuck).fun(joining))
    ((at, error),) = joining.crashes
    assert isinstance(error, StuckError)
    return at


def test_a_worker_that_joins_for_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    at = seconds_until_it_ends(range(0), monkeypatch)
    assert MAX_JOIN_SECONDS < at <= MAX_JOIN_SECONDS + SESSION_SECONDS


def test_the_time_of_an_outage_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    at = seconds_until_it_ends(range(5, 55), monkeypatch)
    assert at > 50 + MAX_JOIN_SECONDS
