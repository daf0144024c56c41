"""How fast registrations are settled: three hops, about six records for one.

A registration counts when the verdict on its address is applied: the group has committed it of
``email-decisions``. That topic has control records, too, so offsets count a little more than
verdicts; what is reported is corrected by how much more there were in the end.
"""

from contextlib import ExitStack
from dataclasses import dataclass

from bench.commits import Committed, follow, slope
from bench.engines import Place, whole_worker, worker_running
from bench.meter import Meter
from bench.workloads import PARTITIONS
from tests import kafka


@dataclass(frozen=True, slots=True)
class Settled:
    """One run. CPU is microseconds a user, of the worker and of the broker beside it."""

    per_second: float
    cpu_us: float
    broker_cpu_us: float
    peak_mib: float
    records: int
    finished: bool


def decisions(place: Place) -> str:
    """Return the topic of the verdicts."""
    return f"{place.prefix}{place.group}-email-decisions"


def measure(place: Place, broker_pid: int, users: int, seconds: float) -> Settled:
    """Run a worker until all new users are settled, or for a time from its first commit."""
    with ExitStack() as stack:
        running = stack.enter_context(worker_running(whole_worker(place)))
        meter = stack.enter_context(Meter(running.pid))
        broker = stack.enter_context(Meter(broker_pid))
        committed = stack.enter_context(
            Committed(place.brokers, place.group, decisions(place), PARTITIONS)
        )
        commits = follow(running, committed, users, seconds)
        line = slope(commits, users)
        finished = commits[-1].records >= users
        ends = sum(kafka.end_offsets(place.brokers, decisions(place)).values())
        verdicts = users / ends if finished else 1.0

        def cpu_us(used: Meter) -> float:
            return used.cpu_seconds(line.began, line.ended) / line.records / verdicts * 1e6

        return Settled(
            per_second=line.per_second * verdicts,
            cpu_us=cpu_us(meter),
            broker_cpu_us=cpu_us(broker),
            peak_mib=meter.peak_mib,
            records=commits[-1].records,
            finished=finished,
        )
