"""How a worker does at steady rates of single registrations: CPU, acknowledged, settled.

The client (`bench/live_client.py`) sends by a schedule, whether or not earlier requests were
answered, and all times count from when a request was due. CPU is that of the measured window only.
Then the rates rise until one is found at which the worker's lag grows.
"""

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Self, cast
from urllib.parse import urlsplit

import orjson
import requests

from bench.engines import Place, Running, wait_while
from bench.errors import PeerFailed
from bench.live_client import Task
from bench.meter import Meter
from bench.results import Bar, spread
from bench.servers import OUR_WORKER
from local.places import PROJECT

WARM_UP_SECONDS = 2.0
#: A virtual machine compiles what it runs often: the broker is given this before the first rate.
COMPILE_PER_SECOND = 1_000.0
COMPILE_SECONDS = 8.0
#: Beyond the time that the client was told to take.
GRACE_SECONDS = 60.0
#: After a load: until the worker has applied what is left.
DRAIN_SECONDS = 60.0
#: The worker asks for the ends of its topics once a second.
LAG_INTERVAL_SECONDS = 1.0
LAG_METRIC = "registry_lag_records"
#: Of a step, in the contract: the lag after its first sixth and that of its last twelfth.
SETTLING_SHARE = 1 / 6
LAST_SHARE = 1 / 12
#: The client cannot keep its schedule if it sends so much later than due.
LATE_MS = 20.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the contract asks of one figure: at most the floor, at best the aim."""

    floor: float
    aim: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Registrations a second, and what is asked of the figures at this rate."""

    per_second: int
    wanted: Mapping[str, Wanted]


RATES: Sequence[Rate] = (
    Rate(
        30,
        {
            "worker_cpu_percent": Wanted(25, 12),
            "settled_p50_ms": Wanted(30, 20),
            "settled_p99_ms": Wanted(80, 40),
            "ack_p99_ms": Wanted(25, 15),
        },
    ),
    Rate(
        100,
        {
            "worker_cpu_percent": Wanted(35, 20),
            "settled_p50_ms": Wanted(40, 25),
            "settled_p99_ms": Wanted(100, 50),
            "ack_p99_ms": Wanted(25, 15),
        },
    ),
    Rate(300, {}),
    Rate(
        1_000,
        {
            "worker_cpu_percent": Wanted(60, 40),
            "settled_p50_ms": Wanted(70, 45),
            "settled_p99_ms": Wanted(150, 90),
            "ack_p99_ms": Wanted(40, 20),
        },
    ),
    Rate(
        3_000,
        {
            "settled_p50_ms": Wanted(100, 60),
            "settled_p99_ms": Wanted(300, 150),
            "ack_p99_ms": Wanted(60, 30),
        },
    ),
)

#: Rates at which it is seen whether lag grows, and what is asked of the highest at which not.
STEPS = (4_000, 5_000, 6_000, 8_000, 10_000, 12_000)
SUSTAINED_WANTED = Wanted(6_000, 10_000)


@dataclass(frozen=True, slots=True)
class AtRate:
    """One rate in one run. CPU is percent of one core; times are from when a POST was due."""

    per_second: int
    worker_cpu_percent: float
    broker_cpu_percent: float
    client_cpu_percent: float
    ack_p50_ms: float
    ack_p99_ms: float
    settled_p50_ms: float
    settled_p99_ms: float
    sent: int
    followed: int
    #: Registrations that another status than 202 answered, or a broken connection.
    refused: int
    unanswered: int
    #: Followed ones that were not settled in time.
    unsettled: int
    late_p99_ms: float
    #: When the measured window began (`time.time`).
    began: float

    @property
    def failures(self) -> int:
        """Everything that did not end as it should."""
        return self.refused + self.unanswered + self.unsettled


#: The figures of which medians are told.
FIGURES = (
    "worker_cpu_percent",
    "broker_cpu_percent",
    "client_cpu_percent",
    "ack_p50_ms",
    "ack_p99_ms",
    "settled_p50_ms",
    "settled_p99_ms",
    "late_p99_ms",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One rate, and whether the lag stayed as it was."""

    at: AtRate
    lag_after_settling: int
    lag_at_the_end: int

    @property
    def holds(self) -> bool:
        """Whether the lag did not grow by more than a second's worth, and nothing failed."""
        grown = self.lag_at_the_end - self.lag_after_settling
        return grown <= self.at.per_second and not self.at.failures


@dataclass(frozen=True, slots=True)
class Sustained:
    """One run of all steps up to the first that does not hold."""

    steps: Sequence[Step]

    @property
    def per_second(self) -> float:
        """The highest rate that holds; 0 if the lowest does not."""
        return float(max((step.at.per_second for step in self.steps if step.holds), default=0))


def measure(
    place: Place, broker_pid: int, seconds: float, say: Callable[[str], None]
) -> Sequence[AtRate]:
    """Run a worker, and offer it each of the rates for a time."""
    with OUR_WORKER.running(place) as running:
        _drive(running, COMPILE_PER_SECOND, COMPILE_SECONDS)
        found = []
        for rate in RATES:
            _drain(running)
            found.append(_at_rate(running, broker_pid, rate.per_second, seconds))
            say(_told(found[-1]))
        return found


def sustain(place: Place, broker_pid: int, seconds: float, say: Callable[[str], None]) -> Sustained:
    """Run a worker, and offer it more and more until its lag grows."""
    with OUR_WORKER.running(place) as running:
        _drive(running, COMPILE_PER_SECOND, COMPILE_SECONDS)
        steps: list[Step] = []
        for per_second in STEPS:
            _drain(running)
            steps.append(_step(running, broker_pid, per_second, seconds))
            step = steps[-1]
            lag = f"lag {step.lag_after_settling:,} -> {step.lag_at_the_end:,}"
            say(f"{_told(step.at)}, {lag}: {'holds' if step.holds else 'does not hold'}")
            if not step.holds:
                break
        return Sustained(steps)


def _told(at: AtRate) -> str:
    return (
        f"{at.per_second:,}/s: worker {at.worker_cpu_percent:.0f}%, "
        f"broker {at.broker_cpu_percent:.0f}%, client {at.client_cpu_percent:.0f}%, "
        f"ack {at.ack_p50_ms:.1f}/{at.ack_p99_ms:.1f} ms, "
        f"settled {at.settled_p50_ms:.1f}/{at.settled_p99_ms:.1f} ms, "
        f"{at.refused} refused, {at.unanswered} unanswered, {at.unsettled} not settled"
    )


def _step(running: Running, broker_pid: int, per_second: int, seconds: float) -> Step:
    with LagWatch(running) as watch:
        at = _at_rate(running, broker_pid, per_second, seconds)
    lags = [(moment - at.began, records) for moment, records in watch.seen()]
    return step_of(at, lags, seconds)


def step_of(at: AtRate, lags: Sequence[tuple[float, int]], seconds: float) -> Step:
    """Return a step with the lags that were seen, each at its second of the measured window."""
    settled = [records for second, records in lags if second >= seconds * SETTLING_SHARE]
    # The first lag that is told after the end is still one of the load.
    begin, end = seconds * (1 - LAST_SHARE) - LAG_INTERVAL_SECONDS, seconds + LAG_INTERVAL_SECONDS
    last = [records for second, records in lags if begin <= second <= end]
    if not settled or not last:
        raise PeerFailed("the worker told no lag: give it more seconds")
    return Step(at, settled[0], max(last))


def _at_rate(running: Running, broker_pid: int, per_second: int, seconds: float) -> AtRate:
    with ExitStack() as stack:
        worker = stack.enter_context(Meter(running.pid))
        broker = stack.enter_context(Meter(broker_pid))
        told = _drive(running, per_second, seconds)

    def percent(used: Meter) -> float:
        cpu = used.cpu_seconds(told["began"], told["ended"])
        return float(cpu / (told["ended"] - told["began"]) * 100)

    return AtRate(
        per_second=per_second,
        worker_cpu_percent=percent(worker),
        broker_cpu_percent=percent(broker),
        client_cpu_percent=told["client_cpu"] * 100,
        ack_p50_ms=told["ack_p50_ms"],
        ack_p99_ms=told["ack_p99_ms"],
        settled_p50_ms=told["settled_p50_ms"],
        settled_p99_ms=told["settled_p99_ms"],
        sent=told["sent"],
        followed=told["followed"],
        refused=sum(told["refused"].values()),
        unanswered=told["unanswered"],
        unsettled=told["unsettled"],
        late_p99_ms=told["late_p99_ms"],
        began=told["began"],
    )


def _drive(running: Running, per_second: float, seconds: float) -> dict[str, Any]:
    """Run the client; return what it saw."""
    port = urlsplit(cast(str, running.url)).port
    assert port is not None
    task = Task(port, per_second, WARM_UP_SECONDS, seconds, f"live-{uuid.uuid4().hex[:10]}")
    limit = WARM_UP_SECONDS + seconds + task.patience_seconds + GRACE_SECONDS
    told = run_client("bench.live_client", task, limit, running)
    if not told["acknowledged"] or told["settled_p50_ms"] is None:
        detail = f"{told}\n{running.last_words()}"
        raise PeerFailed(f"nothing was settled at {per_second:,.0f} a second", detail)
    return told


def run_client(module: str, task: Any, limit: float, running: Running) -> dict[str, Any]:
    """Run a module that takes its task as JSON, and return what it writes as JSON."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=orjson.dumps(asdict(task)),
            cwd=PROJECT,
            capture_output=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"the client did not end within {limit:.0f} s") from None
    if done.returncode:
        detail = f"{done.stderr.decode(errors='replace')}\n{running.last_words()}"
        raise PeerFailed("the client failed", detail)
    return cast(dict[str, Any], orjson.loads(done.stdout))


@dataclass(slots=True)
class LagWatch:
    """Reads a worker's lag once a second, in a thread, for the length of a block."""

    running: Running
    #: Moments by the clock of all processes, and the lag then.
    _seen: list[tuple[float, int]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    def seen(self) -> Sequence[tuple[float, int]]:
        """Return moments and lags."""
        return self._seen

    def _watch(self) -> None:
        while not self._ended.wait(LAG_INTERVAL_SECONDS):
            try:
                self._seen.append((time.time(), lag(self.running)))
            except requests.RequestException:
                continue  # a worker that cannot even tell this has failures, too


def lag(running: Running) -> int:
    """Return how many records the worker has not applied yet, of all topics."""
    return lag_in(requests.get(f"{running.url}/metrics", timeout=5).text)


def lag_in(metrics: str) -> int:
    """Return the sum of the lag gauge over topics and partitions."""
    lines = [line for line in metrics.splitlines() if line.startswith(f"{LAG_METRIC}{{")]
    return round(sum(float(line.rpartition(" ")[2]) for line in lines))


def _drain(running: Running) -> None:
    """Wait until nothing is left of the load before."""
    time.sleep(LAG_INTERVAL_SECONDS)  # the lag that is told is up to a second old
    wait_while(running, lambda: lag(running) > 0, DRAIN_SECONDS, "all records are applied")


def as_json(
    steady: Sequence[Sequence[AtRate]], sustained: Bar, notes: Sequence[str]
) -> dict[str, Any]:
    """Return medians beside what is wanted, and all runs."""
    rates = []
    for index, rate in enumerate(RATES):
        runs = [run[index] for run in steady]
        told: dict[str, Any] = {"per_second": rate.per_second}
        if runs:
            told |= {name: spread([getattr(run, name) for run in runs]) for name in FIGURES}
            told["failures"] = sum(run.failures for run in runs)
        told["wanted"] = {name: asdict(wanted) for name, wanted in rate.wanted.items()}
        rates.append({**told, "runs": [asdict(run) for run in runs]})
    highest = {**sustained.as_json("per_second"), "wanted": asdict(SUSTAINED_WANTED)}
    return {"rates": rates, "sustained": highest, "notes": notes}
