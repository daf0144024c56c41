"""The state of this worker: its metrics and partitions."""

from collections.abc import Callable, Iterable

from prometheus_client import Counter, Histogram

from app.domain.records import User
from app.engine.partitions import Partitions
from app.query.overview.numbers import Counters, Counts, PartitionLag, WorkerState
from app.telemetry.metrics import ACKNOWLEDGEMENT_SECONDS, OUTCOMES, WRITES
from app.worker.lag import Lags


def state(
    url: str,
    partitions: Partitions,
    table: str,
    lags: Lags,
    users: Callable[[Iterable[int]], dict[int, int]],
    newest: list[User],
) -> WorkerState:
    """Return this worker's state; its partitions are those of a table."""
    owned = [each for each in partitions.owned() if each.table.name == table]
    are_open = sorted(each.number for each in owned if each.is_open)
    return WorkerState(
        url=url,
        **counters().__dict__,
        lag=[
            PartitionLag(
                topic=tp.topic,
                partition=tp.partition,
                records=lag.records,
                seconds=round(lag.seconds, 3),
            )
            for tp, lag in sorted(lags.of_all().items())
        ],
        owned=are_open,
        recovering=sorted(each.number for each in owned if not each.is_open),
        standby=sorted(partitions.standbys.get(table, ())),
        newest=newest,
        users=users(are_open),
    )


def counters() -> Counters:
    """Return what this worker has counted since it started."""
    return Counters(
        writes=counts(WRITES, "answer"),
        outcomes=counts(OUTCOMES, "outcome"),
        acknowledgements=buckets(ACKNOWLEDGEMENT_SECONDS),
    )


def counts(counter: Counter, label: str) -> Counts:
    """Return the values of a counter by a label of it."""
    return {
        sample.labels[label]: sample.value
        for metric in counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def buckets(histogram: Histogram) -> Counts:
    """Return how many values are within each bound of a histogram without labels."""
    return {
        sample.labels["le"]: sample.value
        for metric in histogram.collect()
        for sample in metric.samples
        if sample.name.endswith("_bucket")
    }
