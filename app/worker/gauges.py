"""Gauges that are read when Prometheus asks: lag, partitions, sizes of stores."""

from collections import Counter
from collections.abc import Iterable

from mode import Service
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.engine.partitions import Partitions
from app.telemetry.metrics import REGISTRY
from app.worker.lag import Lags
from tables.counts import UserCounts
from tables.users import USERS


class WorkerGauges(Service, Collector):
    """The gauges of partitions. Partitions that this worker has lost are left out."""

    def __init__(self, partitions: Partitions, lags: Lags, counts: UserCounts) -> None:
        super().__init__()
        self._partitions = partitions
        self._lags = lags
        self._counts = counts

    async def on_start(self) -> None:
        """Register with the other metrics, until this service stops."""
        REGISTRY.register(self)
        self.exit_stack.callback(REGISTRY.unregister, self)

    def describe(self) -> Iterable[Metric]:
        """Return the gauges without values."""
        return [*_lag_gauges(), _partition_gauge(), _size_gauge(), _lease_gauge(), _users_gauge()]

    def collect(self) -> Iterable[Metric]:
        """Return the gauges as they are now."""
        yield from self._lag()
        yield self._owned()
        yield self._sizes()
        lease = _lease_gauge()
        lease.add_metric([], float(self._partitions.lease.holds))
        yield lease
        yield self._users()

    def _lag(self) -> Iterable[Metric]:
        records, seconds = _lag_gauges()
        for tp, lag in self._lags.of_all().items():
            labels = [tp.topic, str(tp.partition)]
            records.add_metric(labels, lag.records)
            seconds.add_metric(labels, lag.seconds)
        return records, seconds

    def _owned(self) -> GaugeMetricFamily:
        states: Counter[tuple[str, str]] = Counter()
        for table in self._partitions.tables:
            states.update({(table, "owned"): 0, (table, "recovering"): 0})
            states[table, "standby"] = len(self._partitions.standbys.get(table, ()))
        for partition in self._partitions.owned():
            states[partition.table.name, "owned" if partition.is_open else "recovering"] += 1
        gauge = _partition_gauge()
        for labels, count in states.items():
            gauge.add_metric(labels, count)
        return gauge

    def _users(self) -> GaugeMetricFamily:
        owned = self._partitions.owned()
        numbers = [each.number for each in owned if each.table.name == USERS and each.is_open]
        gauge = _users_gauge()
        gauge.add_metric([], sum(self._counts.users(numbers).values()))
        return gauge

    def _sizes(self) -> GaugeMetricFamily:
        gauge = _size_gauge()
        for name, table in self._partitions.tables.items():
            gauge.add_metric([name], table.store.size_bytes())
        return gauge


def _lag_gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    labels = ["topic", "partition"]
    return (
        GaugeMetricFamily(
            "registry_lag_records", "Records that are not applied yet.", labels=labels
        ),
        GaugeMetricFamily(
            "registry_lag_seconds",
            "Since when the oldest of them was seen to wait.",
            labels=labels,
        ),
    )


def _partition_gauge() -> GaugeMetricFamily:
    text = "Partitions of a table that this worker owns, recovers, or keeps a copy of."
    return GaugeMetricFamily("registry_partitions", text, labels=["table", "state"])


def _size_gauge() -> GaugeMetricFamily:
    text = "Size of a table's files on this machine, those of standbys included."
    return GaugeMetricFamily("registry_store_bytes", text, labels=["table"])


def _users_gauge() -> GaugeMetricFamily:
    text = "Users in the partitions that this worker owns; the sum over all workers is all users."
    return GaugeMetricFamily("registry_users", text)


def _lease_gauge() -> GaugeMetricFamily:
    text = "1 while the broker confirms that this worker is in its group."
    return GaugeMetricFamily("registry_member", text)
