"""What `load` measures, and what it says of its own limits."""

from datetime import UTC, datetime
from math import inf

import numpy as np
import pytest

from tools.load.latencies import Latencies
from tools.load.modes import Verdict
from tools.load.options import Options
from tools.load.report import Report, Snapshots, report
from tools.load.schedule import FixedRate, FullSpeed
from tools.load.tally import Tally


def test_percentiles_are_exact_to_a_thousandth() -> None:
    seconds = np.sort(np.random.default_rng(1).lognormal(-5, 2, 50_000))
    latencies = Latencies()
    for each in seconds.tolist():
        latencies.add(each)
    found = latencies.milliseconds()
    assert found is not None
    for percent in (50, 90, 99, 99.9):
        exact = seconds[round(len(seconds) * percent / 100) - 1] * 1e3
        assert found[f"p{percent}"] == pytest.approx(exact, rel=1e-3, abs=1e-3)
    assert found["max"] == pytest.approx(seconds.max() * 1e3, abs=1e-3)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-6, 0.002047, 0.002048, 60.0, 1e9])
def test_any_latency_can_be_counted(seconds: float) -> None:
    latencies = Latencies()
    latencies.add(seconds)
    assert latencies.counts.sum() == 1


def test_no_latency_has_no_percentiles() -> None:
    assert Latencies().milliseconds() is None


def test_a_fixed_rate_knows_what_is_due_whatever_was_sent() -> None:
    schedule = FixedRate(start=100.0, per_second=10)
    assert schedule.next(99.9) is None
    assert [schedule.next(100.25) for _ in range(4)] == [100.0, 100.1, 100.2, None]
    assert schedule.next_at() == pytest.approx(100.3)
    assert schedule.not_begun(101.05) == 8
    assert schedule.due_between(100.0, 100.5) == pytest.approx(5)
    assert schedule.due_between(100.5, 100.0) == 0


def test_at_full_speed_everything_is_due_now() -> None:
    schedule = FullSpeed()
    assert schedule.next(5.0) == 5.0
    assert (schedule.next_at(), schedule.not_begun(9), schedule.due_between(0, 9)) == (inf, 0, 0)


def reported(tally: Tally, **options: object) -> Report:
    given = Options(url="http://a", **options)  # type: ignore[arg-type]
    return report(given, tally, datetime.now(UTC), interrupted=False)


def counted(requests: int = 100) -> Tally:
    tally = Tally()
    for _ in range(requests):
        tally.begin(1.0, 1.0, 1)
        tally.count(Verdict([0]), None, 0.001, 0.002)
    tally.last_answer_at = tally.since + 2
    return tally


def test_a_report_tells_what_was_counted() -> None:
    tally = counted(98)
    tally.begin(1.0, 1.0, 1)
    tally.count(Verdict(refused={503: 1}), "1", 0.003, 0.003)
    tally.begin(1.0, 1.0, 1)
    tally.errors["time-out"] += 1
    told = reported(tally, rate=50, key="secret").as_json()
    assert (told["requests"], told["acknowledged"], told["errors"]) == (100, 98, {"time-out": 1})
    assert told["refused"] == {"503": {"requests": 1, "registrations": 1, "with_retry_after": 1}}
    assert (told["registrations_per_second"], told["requests_per_second"]) == (49.0, 49.5)
    assert (told["service_ms"]["p99"], told["response_ms"]["p50"]) == (1.0, 2.0)
    assert (told["refusal_ms"]["max"], told["client_limited"]) == (3.0, False)
    assert "secret" not in str(told)


def test_full_speed_tells_no_response_time() -> None:
    told = reported(counted())
    assert told.response_ms is None
    assert "closed model" in told.notes[0]


def test_a_busy_client_says_that_it_was_the_limit() -> None:
    tally = counted()
    tally.cpu_share = 0.95
    told = reported(tally)
    assert told.client_limited
    assert told.notes[0].startswith("The client was the limit: it used 95% of a core.")


def test_a_client_that_was_held_up_says_that_it_was_the_limit() -> None:
    tally = counted()
    tally.held_up, tally.late = 2.0, 2
    told = reported(tally, rate=50)
    assert told.client_limited
    assert told.late_by_client == 2
    assert "held up by over 5 ms" in told.notes[0]


def test_waiting_for_a_connection_is_not_the_clients_limit() -> None:
    tally = counted()
    tally.late, tally.not_begun = 50, 7
    told = reported(tally, rate=50)
    assert not told.client_limited
    assert "50 requests waited for a free connection" in told.notes[0]
    assert told.notes[1].startswith("7 requests that were due could not be begun")


def test_a_snapshot_tells_what_is_new() -> None:
    snapshots = Snapshots()
    tally = counted(10)
    assert snapshots.take(tally, 0.5).p50_ms == pytest.approx(2.0)
    again = snapshots.take(tally, 0.6)
    assert (again.acknowledged, again.per_second, again.p50_ms) == (10, 0.0, None)
