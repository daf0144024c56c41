"""The consumer: source partitions stay closed until Faust has sought them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from faust.transport.drivers import aiokafka
from faust.types import TP

from app.engine.consumer import Consumer
from app.main import app

SOURCE, CHANGELOG = TP("source", 0), TP("changelog", 0)


async def ignore(*_: Any) -> None:
    """Take what is not sent here."""


@pytest.fixture
async def consumer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Consumer]:
    """Return a consumer without a broker."""
    made = Consumer(
        app.transport,
        callback=ignore,
        on_partitions_revoked=ignore,
        on_partitions_assigned=ignore,
    )
    made._active_partitions = set()
    monkeypatch.setattr(made, "_is_changelog_tp", lambda tp: tp.topic == "changelog")
    yield made
    made._thread.thread_loop.close()


def readable(consumer: Consumer) -> set[TP]:
    """Return the partitions that the fetcher reads."""
    return set(consumer._get_active_partitions())


async def test_a_source_partition_opens_with_the_flow_and_a_changelog_at_once(
    consumer: Consumer,
) -> None:
    consumer.resume_partitions({SOURCE, CHANGELOG})
    assert readable(consumer) == {CHANGELOG}
    consumer.resume_flow()
    assert readable(consumer) == {SOURCE, CHANGELOG}


async def test_a_partition_that_is_paused_meanwhile_stays_closed(consumer: Consumer) -> None:
    consumer.resume_partitions({SOURCE})
    consumer.pause_partitions({SOURCE})
    consumer.resume_flow()
    assert readable(consumer) == set()


def test_faust_still_has_what_we_lean_on() -> None:
    assert callable(aiokafka.Consumer._is_changelog_tp)


def test_the_app_uses_our_consumer() -> None:
    assert app.transport.Consumer is Consumer
