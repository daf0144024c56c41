"""The lease: what the broker confirmed holds for most of a session, from when it was asked."""

from dataclasses import dataclass

import pytest

from app.engine.lease import Lease
from app.system.clocks import Moment


@dataclass
class Clock:
    """Two clocks that go as a test wants."""

    at: float = 1_000.0
    wall: float = 1_700_000_000.0

    def __call__(self) -> Moment:
        return Moment(self.at, self.wall)

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds
        self.wall += seconds


@pytest.fixture
def clock() -> Clock:
    """Return clocks."""
    return Clock()


@pytest.fixture
def lease(clock: Clock) -> Lease:
    """Return a lease of a session of 60 seconds."""
    made = Lease(clock=clock)
    made.session_seconds = 60.0
    return made


def test_nothing_is_confirmed_at_first(lease: Lease) -> None:
    assert not lease.holds
    assert not Lease().holds


def test_a_confirmation_counts_from_when_it_was_asked_for(lease: Lease, clock: Clock) -> None:
    asked_at = lease.now()
    clock.go(44)
    lease.renew(asked_at)
    assert lease.holds
    clock.go(2)
    assert not lease.holds
    lease.renew(lease.now())
    assert lease.holds


def test_an_answer_that_is_overtaken_takes_nothing_back(lease: Lease, clock: Clock) -> None:
    before = lease.now()
    clock.go(50)
    now = lease.now()
    lease.renew(now)
    lease.renew(before)
    assert lease.confirmed_at == now.at
    assert lease.holds


@pytest.mark.parametrize("seconds", [46.0, -46.0])
def test_a_wall_clock_that_was_set_ends_it(lease: Lease, clock: Clock, seconds: float) -> None:
    """So does a host that suspends a virtual machine: all other clocks of that stand still."""
    lease.renew(lease.now())
    clock.wall += seconds
    assert not lease.holds
    lease.renew(lease.now())
    assert lease.holds


def test_the_clock_goes_on_while_a_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = 0.0
    read = __import__("time").clock_gettime
    clocks: list[int] = []

    def clock_gettime(clock: int) -> float:
        clocks.append(clock)
        return float(read(clock)) + slept

    monkeypatch.setattr("app.system.clocks.time.clock_gettime", clock_gettime)
    lease = Lease()
    lease.renew(lease.now())
    assert lease.holds
    slept = 8.0
    assert not lease.holds
    assert set(clocks) == {getattr(__import__("time"), "CLOCK_BOOTTIME", clocks[0])}
