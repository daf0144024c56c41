"""How fast an engine applies a workload that stands in its source topic."""

from contextlib import ExitStack
from dataclasses import dataclass

from bench.commits import Committed, follow, slope
from bench.engines import Engine, Place
from bench.health import Health, HealthProbe
from bench.meter import Meter
from bench.workloads import PARTITIONS


@dataclass(frozen=True, slots=True)
class Applied:
    """One run. CPU is microseconds a record, of the engine and of the broker beside it."""

    per_second: float
    cpu_us: float
    broker_cpu_us: float
    peak_mib: float
    records: int
    finished: bool
    health: Health | None = None


def measure(engine: Engine, place: Place, broker_pid: int, records: int, seconds: float) -> Applied:
    """Run an engine until everything is applied, or for a time from its first commit."""
    with ExitStack() as stack:
        running = stack.enter_context(engine.running(place))
        meter = stack.enter_context(Meter(running.pid))
        broker = stack.enter_context(Meter(broker_pid))
        committed = stack.enter_context(
            Committed(place.brokers, place.group, PARTITIONS, place.topic)
        )
        probe = stack.enter_context(HealthProbe(running.url)) if running.url else None
        commits = follow(running, committed, records, seconds)
        line = slope(commits, records)

        def cpu_us(used: Meter) -> float:
            return used.cpu_seconds(line.began, line.ended) / line.records * 1e6

        return Applied(
            per_second=line.per_second,
            cpu_us=cpu_us(meter),
            broker_cpu_us=cpu_us(broker),
            peak_mib=meter.peak_mib,
            records=commits[-1].records,
            finished=commits[-1].records >= records,
            health=probe.health() if probe else None,
        )
