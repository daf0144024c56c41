"""The numbers of the overview: rates between two moments, over workers that come and go."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from app.domain.positions import Position
from app.domain.records import User
from app.query.overview.here import buckets, counts
from app.query.overview.numbers import (
    Moment,
    PartitionLag,
    WorkerState,
    growth,
    newest,
    quantile,
    tick,
)


def a_user(user_id: str, second: int) -> User:
    at = datetime(2026, 3, 4, 12, 0, second, tzinfo=UTC)
    return User(
        id=user_id,
        name="Ada",
        email="ada@example.com",
        status="registered",
        registered_at=at,
        updated_at=at,
        version=1,
        position=Position(0, second).token(),
    )


def a_worker(
    url: str = "http://a",
    writes: float = 0,
    outcomes: Mapping[str, float] | None = None,
    acknowledgements: Mapping[str, float] | None = None,
    **more: object,
) -> WorkerState:
    told = {
        "url": url,
        "writes": {"acknowledged": writes},
        "outcomes": outcomes or {},
        "acknowledgements": acknowledgements or {},
        "lag": [],
        "owned": [],
        "recovering": [],
        "standby": [],
        "newest": [],
    }
    return WorkerState.model_validate(told | more)


def test_rates_are_sums_of_what_grew_at_each_worker() -> None:
    before = Moment(10.0, [a_worker("http://a", 100), a_worker("http://b", 1_000)])
    now = Moment(12.0, [a_worker("http://a", 300), a_worker("http://b", 1_010)])
    told = tick(now, before, 8)
    assert told["writes_per_second"] == {"acknowledged": 105.0}
    assert told["seconds"] == 2.0


def test_a_worker_that_comes_or_goes_adds_no_leap() -> None:
    before = Moment(10.0, [a_worker("http://a", 100), a_worker("http://gone", 9_000)])
    now = Moment(11.0, [a_worker("http://a", 101), a_worker("http://new", 7_000)], ["http://gone"])
    told = tick(now, before, 8)
    assert told["writes_per_second"] == {"acknowledged": 1.0}
    assert told["unavailable"] == ["http://gone"]


def test_a_worker_that_started_again_counts_from_nothing() -> None:
    assert growth({"x": 3, "y": 500}, {"x": 400, "y": 400}) == {"x": 3, "y": 500}
    assert growth({"x": 3}, {}) == {"x": 3}
    assert growth({"x": 5}, {"x": 3}) == {"x": 2}
    assert growth({}, {"x": 3}) == {}


def test_all_rejections_are_one_outcome() -> None:
    outcomes = {"registered": 5.0, "id-taken": 1.0, "email-taken": 2.0}
    before, now = Moment(1.0, [a_worker()]), Moment(2.0, [a_worker(outcomes=outcomes)])
    told = tick(now, before, 8)
    assert told["outcomes"] == {"registered": 5.0, "rejected": 3.0}
    assert told["outcomes_per_second"] == {"registered": 5.0, "rejected": 3.0}


def test_latencies_are_those_of_the_last_second_in_ms() -> None:
    old = {"0.01": 1_000.0, "0.02": 1_000.0, "+Inf": 1_000.0}
    new = {"0.01": 1_050.0, "0.02": 1_100.0, "+Inf": 1_100.0}
    before = Moment(1.0, [a_worker(acknowledgements=old)])
    now = Moment(2.0, [a_worker(acknowledgements=new)])
    assert tick(now, before, 8)["acknowledgement_ms"] == {"p50": 10.0, "p99": 19.8}
    assert tick(now, now, 8)["acknowledgement_ms"] is None


@pytest.mark.parametrize(
    ("buckets_", "share", "expected"),
    [
        ({}, 0.5, None),
        ({"1": 0, "+Inf": 0}, 0.5, None),
        ({"1": 10, "+Inf": 10}, 0.5, 0.5),
        ({"1": 0, "3": 10, "+Inf": 10}, 0.5, 2.0),
        ({"1": 0, "3": 0, "+Inf": 10}, 0.5, 3.0),
        ({"10": 50, "2": 50, "+Inf": 100}, 0.25, 1.0),
    ],
)
def test_quantiles_are_found_within_buckets(
    buckets_: Mapping[str, float], share: float, expected: float | None
) -> None:
    assert quantile(buckets_, share) == expected


def test_lag_and_owners_are_told_of_every_worker() -> None:
    lag = [PartitionLag(topic="t", partition=3, records=7, seconds=0.5)]
    now = Moment(2.0, [a_worker(lag=lag, owned=[3], standby=[1], recovering=[2])])
    told = tick(now, now, 8)
    assert told["lag"] == [{"topic": "t", "partition": 3, "records": 7, "seconds": 0.5}]
    owners = {"url": "http://a", "owned": [3], "standby": [1], "recovering": [2]}
    assert told["workers"] == [owners]
    assert told["partitions"] == 8


def test_the_newest_of_all_workers_come_once_and_newest_first() -> None:
    first = a_worker(newest=[a_user("a", 1), a_user("c", 3)])
    second = a_worker("http://b", newest=[a_user("b", 2), a_user("c", 3)])
    assert [user.id for user in newest([first, second])] == ["c", "b", "a"]


def test_what_a_worker_tells_is_what_its_metrics_hold() -> None:
    registry = CollectorRegistry()
    counter = Counter("writes_total", "Writes.", ["answer"], registry=registry)
    counter.labels("acknowledged").inc(3)
    histogram = Histogram("seconds", "Seconds.", registry=registry, buckets=(1.0, 2.0))
    histogram.observe(1.5)
    assert counts(counter, "answer") == {"acknowledged": 3.0}
    assert buckets(histogram) == {"1.0": 0.0, "2.0": 1.0, "+Inf": 1.0}
