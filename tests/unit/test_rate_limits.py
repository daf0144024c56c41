"""Rates: of each client, and of all together."""

import pytest

from app.domain.errors import OverloadedError, TooManyRequestsError
from app.ingest import rate_limits
from app.ingest.rate_limits import Limits


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def admitted(given: Limits, clock: Clock, seconds: float, offered: int, client: str = "a") -> int:
    """Offer so many single writes, evenly over a time; return how many are admitted."""
    count = 0
    for _ in range(offered):
        clock.now += seconds / offered
        try:
            given.admit(1, client)
            count += 1
        except (OverloadedError, TooManyRequestsError):
            pass
    return count


def test_without_limits_everything_is_admitted() -> None:
    assert admitted(Limits(), Clock(), 1, 10_000) == 10_000


def test_the_rate_holds_on_average_after_a_burst() -> None:
    clock = Clock()
    given = Limits(per_second=500, clock=clock)
    assert admitted(given, clock, 30, 150_000) == pytest.approx(500 * 31, abs=2)


def test_who_stays_below_the_rate_is_never_refused() -> None:
    clock = Clock()
    given = Limits(client_per_second=500, clock=clock)
    assert admitted(given, clock, 30, 499 * 30) == 499 * 30


def test_a_refusal_says_when_to_come_again() -> None:
    clock = Clock()
    given = Limits(per_second=10, clock=clock)
    given.admit(30, "a")
    with pytest.raises(OverloadedError) as refused:
        given.admit(1, "a")
    assert refused.value.retry_after_seconds == pytest.approx(2)
    assert given.wait("a") == pytest.approx(2)
    clock.now += 2
    assert given.wait("a") == 0
    given.admit(1, "a")


def test_one_large_batch_is_admitted_and_delays_what_follows() -> None:
    clock = Clock()
    given = Limits(client_per_second=100, clock=clock)
    given.admit(1_000, "a")
    clock.now += 8.9
    with pytest.raises(TooManyRequestsError):
        given.admit(1, "a")
    clock.now += 0.2
    given.admit(1, "a")


def test_a_client_pays_for_itself_only() -> None:
    clock = Clock()
    given = Limits(client_per_second=10, clock=clock)
    assert admitted(given, clock, 1, 1_000, "greedy") < 25
    assert admitted(given, clock, 1, 9, "modest") == 9


def test_what_the_worker_refuses_is_not_charged_to_the_client() -> None:
    clock = Clock()
    given = Limits(per_second=1, client_per_second=2, clock=clock)
    given.admit(2, "a")
    for _ in range(10):
        with pytest.raises(OverloadedError):
            given.admit(1, "b")
    clock.now += 2
    given.admit(1, "b")


def test_only_so_many_clients_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_CLIENTS", 3)
    given = Limits(client_per_second=10, clock=Clock())
    for number in range(100):
        given.admit(1, f"client {number}")
    assert list(given._clients) == ["client 97", "client 98", "client 99"]
