"""Readiness: a worker that may not be sent requests says why."""

from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from app.engine.lease import Lease
from app.worker.lag import Lag
from app.worker.readiness import Readiness


class World:
    """A worker that is ready, until something is changed."""

    def __init__(self) -> None:
        self.lease = Lease()
        self.lease.renew(self.lease.now())
        self.owned = [SimpleNamespace(is_open=True, trouble=None) for _ in range(2)]
        partitions = SimpleNamespace(lease=self.lease, owned=lambda: self.owned)
        self.partitions = partitions
        self.tables = SimpleNamespace(actives_ready=True)
        self.app = SimpleNamespace(tables=self.tables, rebalancing=False)
        self.lag = {TP("users", 0): Lag(5, 3.0), TP("users", 1): Lag(0, 0.0)}
        self.access = SimpleNamespace(told=None)
        self.producer = SimpleNamespace(refused=None)
        self.shutdown = SimpleNamespace(is_under_way=False)

    def why_not(self) -> list[str]:
        """Return the reasons."""
        lags = SimpleNamespace(of_all=lambda: self.lag)
        services = (lags, self.access, self.producer, self.shutdown)
        given: Any = (self.app, self.partitions, *services, 10)
        return Readiness(*given).why_not()


@pytest.fixture
def world() -> World:
    """Return a worker that is ready."""
    made = World()
    assert made.why_not() == []
    return made


def test_the_brokers_refuse_it(world: World) -> None:
    world.access.told = "KAFKA_USERNAME, KAFKA_PASSWORD: the broker refuses them"
    assert world.why_not() == ["KAFKA_USERNAME, KAFKA_PASSWORD: the broker refuses them"]


def test_it_stops(world: World) -> None:
    world.shutdown.is_under_way = True
    assert world.why_not() == ["the worker is stopping"]


def test_it_has_no_part_in_the_group(world: World) -> None:
    world.app.rebalancing = True
    (reason,) = world.why_not()
    world.app.rebalancing, world.tables.actives_ready = False, False
    assert world.why_not() == [reason]
    assert "joins its group" in reason


def test_it_recovers(world: World) -> None:
    world.owned[0].is_open = False
    assert world.why_not() == ["1 of 2 partitions are recovering"]


def test_the_broker_refuses_what_it_sends(world: World) -> None:
    world.producer.refused = "the broker refuses the time of the records"
    assert world.why_not() == ["the broker refuses the time of the records"]


def test_its_batches_fail(world: World) -> None:
    world.owned[1].trouble = "No space left on device"
    assert world.why_not() == ["1 of 2 partitions try again: No space left on device"]


def test_no_broker_knows_it(world: World) -> None:
    world.lease.session_seconds = 0
    assert world.why_not() == ["no broker confirms that the worker is in its group"]
    world.owned.clear()
    assert world.why_not() == []


def test_its_records_wait_for_too_long(world: World) -> None:
    world.lag[TP("users", 1)] = Lag(1_000, 12.3)
    assert world.why_not() == ["records of 1 partitions wait for 12 s"]
