"""Keeping a service running: each start later than the one before, unless it was healthy."""

import pytest

from local.errors import BrokerError
from local.keeper import Keeper


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Flaky:
    """A service that ends when the test says so."""

    name = "worker 1"

    def __init__(self) -> None:
        self.how: str | None = None
        self.starts = 0
        self.broken = False

    def launch(self) -> None:
        self.starts += 1
        if self.broken:
            raise BrokerError("no memory")
        self.how = None

    def ending(self) -> str | None:
        return self.how


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service() -> Flaky:
    return Flaky()


@pytest.fixture
def keeper(service: Flaky, clock: Clock) -> Keeper:
    return Keeper(service, clock)


def crash_and_restart(service: Flaky, keeper: Keeper, clock: Clock) -> float:
    """End the service, and return how many seconds its next start was put off."""
    service.how = "exit status 1"
    starts, ended = service.starts, clock.now
    while service.starts == starts:
        keeper.look()
        clock.now += 0.25
    return clock.now - 0.25 - ended


def test_a_running_service_is_left_alone(service: Flaky, keeper: Keeper) -> None:
    keeper.look()
    assert service.starts == 0


def test_a_crash_is_told_once_with_how_it_ended(
    service: Flaky, keeper: Keeper, capsys: pytest.CaptureFixture[str]
) -> None:
    service.how = "killed by SIGKILL"
    keeper.look()
    keeper.look()
    line = "worker 1 ended (killed by SIGKILL): starting it again in 0.5 s\n"
    assert capsys.readouterr().out == line


def test_delays_double_up_to_half_a_minute(service: Flaky, keeper: Keeper, clock: Clock) -> None:
    delays = [crash_and_restart(service, keeper, clock) for _ in range(9)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_minute_of_health_makes_the_next_delay_the_first_again(
    service: Flaky, keeper: Keeper, clock: Clock
) -> None:
    for _ in range(3):
        crash_and_restart(service, keeper, clock)
    clock.now += 60
    assert crash_and_restart(service, keeper, clock) == 0.5


def test_a_start_that_fails_is_put_off_further(
    service: Flaky, keeper: Keeper, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    service.broken = True
    crash_and_restart(service, keeper, clock)
    assert "worker 1 ended (no memory): starting it again in 1 s" in capsys.readouterr().out
    service.broken = False
    clock.now += 1
    keeper.look()
    assert (service.starts, service.how) == (2, None)
