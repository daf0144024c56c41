"""The numbers of the overview, pure: sums, rates, quantiles."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from app.domain.outcomes import Outcome
from app.domain.records import User
from app.query.newest import NEWEST_USERS

#: A count by name; those of a worker only grow, until it starts again.
Counts = Mapping[str, float]


class PartitionLag(BaseModel):
    """How far a partition of a topic is behind."""

    topic: str
    partition: int
    records: int
    seconds: float


class Counters(BaseModel):
    """What a worker has counted."""

    #: Records by what their writers were told, and by what became of them.
    writes: Counts
    outcomes: Counts
    #: Acknowledgements that took at most so many seconds; the last bound is ``+Inf``.
    acknowledgements: Counts


class WorkerState(Counters):
    """What a worker tells of itself."""

    url: str
    lag: list[PartitionLag]
    owned: list[int]
    recovering: list[int]
    standby: list[int]
    newest: list[User]
    #: Users by partition, of those that are owned. Older workers do not tell.
    users: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Moment:
    """What the workers told at a time, in monotonic seconds, and who did not answer."""

    at: float
    workers: Sequence[WorkerState]
    unavailable: Sequence[str] = ()


def tick(now: Moment, before: Moment, partitions: int) -> dict[str, Any]:
    """Return what is told of a moment, with rates since the one before it."""
    return {
        **_rates(now, before),
        "outcomes": sums(words(worker.outcomes) for worker in now.workers),
        "partitions": partitions,
        "users": users(now.workers, partitions),
        "lag": [lag.model_dump() for worker in now.workers for lag in worker.lag],
        "workers": [
            worker.model_dump(include={"url", "owned", "recovering", "standby"})
            for worker in now.workers
        ],
        "unavailable": list(now.unavailable),
    }


def users(workers: Iterable[WorkerState], partitions: int) -> int | None:
    """Return how many users there are; None unless every partition's owner tells."""
    told = {number: count for worker in workers for number, count in worker.users.items()}
    return sum(told.values()) if told.keys() == set(range(partitions)) else None


def newest(workers: Iterable[WorkerState]) -> list[User]:
    """Return the newest registrations of all workers, newest first."""
    # A partition that is moving may be told of twice.
    users = {user.id: user for worker in workers for user in worker.newest}
    in_order = sorted(users.values(), key=lambda user: (user.registered_at, user.id), reverse=True)
    return in_order[:NEWEST_USERS]


def _rates(now: Moment, before: Moment) -> dict[str, Any]:
    seconds = max(now.at - before.at, 1e-3)
    known = {worker.url: worker for worker in before.workers}
    # Of a worker that was not there before, it is not known since when it counts.
    pairs = [(each, known[each.url]) for each in now.workers if each.url in known]
    writes = sums(growth(new.writes, old.writes) for new, old in pairs)
    outcomes = sums(growth(words(n.outcomes), words(o.outcomes)) for n, o in pairs)
    buckets = sums(growth(new.acknowledgements, old.acknowledgements) for new, old in pairs)
    return {
        "seconds": round(seconds, 3),
        "writes_per_second": per_second(writes, seconds),
        "outcomes_per_second": per_second(outcomes, seconds),
        "acknowledgement_ms": latencies_ms(buckets),
    }


def words(outcomes: Counts) -> Counts:
    """Return outcomes by what users call them: all rejections are one."""
    return sums({_word(name): count} for name, count in outcomes.items())


_WORDS = {outcome.reason: outcome.word for outcome in Outcome if outcome.reason is not None}


def _word(name: str) -> str:
    return _WORDS.get(name, name)


def sums(counts: Iterable[Counts]) -> dict[str, float]:
    """Return the sums by name."""
    summed: dict[str, float] = {}
    for some in counts:
        for name, count in some.items():
            summed[name] = summed.get(name, 0.0) + count
    return summed


def growth(now: Counts, before: Counts) -> Counts:
    """Return by how much counts have grown; one that is smaller began anew at 0."""
    since = {} if any(now.get(name, 0) < count for name, count in before.items()) else before
    return {name: count - since.get(name, 0) for name, count in now.items()}


def per_second(counts: Counts, seconds: float) -> Counts:
    """Return rates."""
    return {name: round(count / seconds, 3) for name, count in counts.items()}


def latencies_ms(buckets: Counts) -> Counts | None:
    """Return the median and the 99th percentile in ms; None if nothing was measured."""
    p50, p99 = quantile(buckets, 0.5), quantile(buckets, 0.99)
    if p50 is None or p99 is None:
        return None
    return {"p50": round(p50 * 1000, 2), "p99": round(p99 * 1000, 2)}


def quantile(buckets: Counts, share: float) -> float | None:
    """Return about which value a share of the measured ones does not exceed.

    Within a bucket, values count as evenly spread, as Prometheus has it; beyond the last bound
    nothing is known, so it is that bound.
    """
    bounds = sorted((float(bound), count) for bound, count in buckets.items())
    if not bounds or not bounds[-1][1]:
        return None
    rank = share * bounds[-1][1]
    for (lower, below), (upper, count) in pairwise([(0.0, 0.0), *bounds]):
        if count >= rank and count > below:
            if upper == float("inf"):
                return lower
            return lower + (upper - lower) * (rank - below) / (count - below)
    return None
