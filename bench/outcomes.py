"""How soon a registration has an outcome: produced to a topic, read from a topic, committed.

The same client (`bench/outcome_client.py`) measures this registry and the same three hops in Kafka
Streams, at steady rates. It knows only the two topics.
"""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from bench.engines import Place, Running
from bench.errors import PeerFailed
from bench.flow_engines import FLOWS, Flow, Tuning
from bench.live import COMPILE_PER_SECOND, GRACE_SECONDS, WARM_UP_SECONDS, run_client
from bench.meter import Meter
from bench.outcome_client import Task
from bench.results import spread
from bench.workloads import make_topic

RATES = (100, 1_000)
#: Both are given this before the first rate, so that Java has compiled what runs often.
COMPILE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class AtRate:
    """One rate in one run. CPU is percent of one core; times are from when a record was due."""

    per_second: int
    p50_ms: float
    p99_ms: float
    engine_cpu_percent: float
    broker_cpu_percent: float
    client_cpu_percent: float
    sent: int
    failures: int


#: The figures of which medians are told.
FIGURES = ("p50_ms", "p99_ms", "engine_cpu_percent", "broker_cpu_percent", "client_cpu_percent")


def measure(flow: Flow, place: Place, broker_pid: int, seconds: float) -> Sequence[AtRate]:
    """Run an engine, and offer it each of the rates for a time."""
    if not flow.is_ours:
        make_topic(place.brokers, place.topic)
    with flow.running(place, Tuning.LATENCY) as running:
        drive(flow, place, running, COMPILE_PER_SECOND, COMPILE_SECONDS)
        return [_at_rate(flow, place, running, broker_pid, rate, seconds) for rate in RATES]


def _at_rate(
    flow: Flow, place: Place, running: Running, broker_pid: int, per_second: int, seconds: float
) -> AtRate:
    with ExitStack() as stack:
        engine = stack.enter_context(Meter(running.pid))
        broker = stack.enter_context(Meter(broker_pid))
        seen = drive(flow, place, running, per_second, seconds)

    def percent(used: Meter) -> float:
        cpu = used.cpu_seconds(seen["began"], seen["ended"])
        return float(cpu / (seen["ended"] - seen["began"]) * 100)

    return AtRate(
        per_second=per_second,
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        engine_cpu_percent=percent(engine),
        broker_cpu_percent=percent(broker),
        client_cpu_percent=seen["client_cpu"] * 100,
        sent=seen["sent"],
        failures=seen["failures"],
    )


def drive(
    flow: Flow, place: Place, running: Running, per_second: float, seconds: float
) -> dict[str, Any]:
    """Run the client once the engine has told a first outcome; return what it saw."""
    task = Task(
        brokers=place.brokers,
        registrations=place.topic,
        outcomes=flow.outcomes(place),
        per_second=per_second,
        warm_up_seconds=WARM_UP_SECONDS,
        seconds=seconds,
        prefix=f"outcome-{uuid.uuid4().hex[:10]}",
    )
    limit = task.first_seconds + seconds + task.patience_seconds + GRACE_SECONDS
    seen = run_client("bench.outcome_client", task, limit, running)
    if seen["p50_ms"] is None:
        raise PeerFailed(f"no outcome at {per_second:,.0f} a second", running.last_words())
    return seen


def told(at: AtRate) -> str:
    """Return a run in one line."""
    return (
        f"{at.per_second:,}/s: outcome {at.p50_ms:.1f}/{at.p99_ms:.1f} ms, "
        f"engine {at.engine_cpu_percent:.0f}%, broker {at.broker_cpu_percent:.0f}%, "
        f"client {at.client_cpu_percent:.0f}%, {at.failures} failures"
    )


def by_rate(runs: Mapping[str, Sequence[Sequence[AtRate]]]) -> Sequence[Mapping[str, Any]]:
    """Return by rate the medians of each engine, and all runs."""
    labels = {flow.name: flow.label for flow in FLOWS}
    return [
        {
            "per_second": per_second,
            "bars": [
                _bar(name, labels[name], [run[index] for run in of_engine])
                for name, of_engine in runs.items()
            ],
        }
        for index, per_second in enumerate(RATES)
    ]


def _bar(name: str, label: str, runs: Sequence[AtRate]) -> Mapping[str, Any]:
    bar: dict[str, Any] = {"engine": name, "label": label}
    if runs:
        bar |= {figure: spread([getattr(run, figure) for run in runs]) for figure in FIGURES}
        bar["failures"] = sum(run.failures for run in runs)
    return {**bar, "runs": [asdict(run) for run in runs]}
