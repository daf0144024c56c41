"""Standstills: whoever looks first notices one, and what may have waited through it is stale."""

import pytest

from app.ingest import standstills
from app.ingest.standstills import LOOKS_TO_CATCH_UP, TOO_OLD, Standstills


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(standstills, "now", made.now)
    return made


def live(given: Standstills, clock: Clock, looks: int) -> None:
    for _ in range(looks):
        clock.at += 0.1
        given.catch_up()


def test_nothing_is_stale_while_somebody_looks(clock: Clock) -> None:
    given = Standstills(1.0)
    read_at = given.look()
    live(given, clock, 30)
    assert not given.is_stale(read_at)


def test_what_was_read_before_a_standstill_is_stale_for_ever(clock: Clock) -> None:
    given = Standstills(1.0)
    read_at = given.look()
    clock.at += 1.1
    assert given.is_stale(read_at)
    live(given, clock, 100)
    assert given.is_stale(read_at)


@pytest.mark.parametrize("timer_first", [False, True])
def test_what_is_read_after_a_standstill_is_stale_whoever_looks_first(
    clock: Clock, timer_first: bool
) -> None:
    given = Standstills(1.0)
    clock.at += 1.1
    if timer_first:
        given.catch_up()
    read_at = given.look()
    assert given.is_stale(read_at)
    live(given, clock, 100)
    assert given.is_stale(read_at)


def test_what_is_read_once_all_that_waited_was_read_is_fresh(clock: Clock) -> None:
    given = Standstills(1.0)
    clock.at += 1.1
    live(given, clock, LOOKS_TO_CATCH_UP)
    assert not given.is_stale(given.look())


def test_a_short_standstill_is_none(clock: Clock) -> None:
    given = Standstills(1.0)
    read_at = given.look()
    clock.at += 0.9
    assert not given.is_stale(read_at)


def test_a_second_standstill_begins_anew(clock: Clock) -> None:
    given = Standstills(1.0)
    clock.at += 1.1
    live(given, clock, LOOKS_TO_CATCH_UP - 1)
    clock.at += 1.1
    live(given, clock, LOOKS_TO_CATCH_UP - 1)
    assert given.is_stale(given.look())
    live(given, clock, 1)
    assert not given.is_stale(given.look())


def test_what_waited_for_too_long_behind_another_request_is_too_old(clock: Clock) -> None:
    given = Standstills(1.0)
    since = given.look()
    live(given, clock, 9)
    assert given.time_of(990.0, since) == 990.0
    live(given, clock, 2)
    assert given.time_of(990.0, since) == TOO_OLD
    assert given.is_stale(TOO_OLD)
