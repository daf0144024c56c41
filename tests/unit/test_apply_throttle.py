"""The pace of cycles: at once while little comes, further apart under load, never long."""

from dataclasses import dataclass

import pytest

from app.engine.cycles import (
    BUSY_RATE,
    EASY_RATE,
    MAX_LINGER_SECONDS,
    RATE_SECONDS,
    SPACING_SECONDS,
    ApplyThrottle,
)


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def paced(clock: Clock, rate: float, seconds: float = 5.0) -> ApplyThrottle:
    """Return a pace that has seen so many records a second, up to now."""
    pace = ApplyThrottle(clock)
    for _ in range(int(seconds)):
        clock.now += 1.0
        pace.begin(int(rate))
    return pace


def test_the_first_cycle_begins_at_once() -> None:
    assert ApplyThrottle(Clock()).rest() == 0.0


def test_one_record_after_a_pause_waits_for_nothing() -> None:
    clock = Clock()
    pace = ApplyThrottle(clock)
    clock.now += 10
    pace.begin(1)
    assert pace.rest() == 0.0


def test_little_that_comes_is_applied_at_once() -> None:
    assert paced(Clock(), EASY_RATE - 1).rest() == 0.0


def test_under_load_cycles_begin_apart_but_no_record_waits_for_long() -> None:
    clock = Clock()
    pace = paced(clock, 2 * BUSY_RATE)
    assert pace.rest() == MAX_LINGER_SECONDS
    clock.now += SPACING_SECONDS - MAX_LINGER_SECONDS / 2
    assert pace.rest() == pytest.approx(MAX_LINGER_SECONDS / 2)
    clock.now += MAX_LINGER_SECONDS
    assert pace.rest() == 0.0


def test_the_more_comes_the_further_apart_cycles_begin() -> None:
    rates = [EASY_RATE + (BUSY_RATE - EASY_RATE) * tenths / 10 for tenths in range(12)]
    rests = [paced(Clock(), rate).rest() for rate in rates]
    assert rests == sorted(rests)
    assert rests[0] < rests[4] < rests[-1] == MAX_LINGER_SECONDS


def test_a_load_that_is_over_is_soon_forgotten() -> None:
    clock = Clock()
    pace = paced(clock, 10 * BUSY_RATE)
    clock.now += 2 * RATE_SECONDS
    pace.begin(1)
    assert pace.rest() == 0.0


def test_a_burst_out_of_nothing_is_no_load_yet() -> None:
    """It is spread over the time in which nothing came."""
    clock = Clock()
    pace = paced(clock, 0)
    clock.now += 10
    pace.begin(int(EASY_RATE * RATE_SECONDS))
    assert pace.rest() == 0.0


def test_cycles_that_follow_each_other_at_once_divide_by_no_zero() -> None:
    clock = Clock()
    pace = ApplyThrottle(clock)
    for _ in range(10):
        pace.begin(100)
    assert pace.rest() <= MAX_LINGER_SECONDS
