"""The order of the measurements: every run takes each engine in turn; none has a better hour."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar, TypeVar

from rich.progress import Progress

from bench import acknowledge, apply, flow, live, lookups, outcomes, recovery, results
from bench.engines import ENGINES, OURS, Engine, Place
from bench.errors import PeerError, PeerSkipped
from bench.flow_engines import FLOWS, OUR_FLOW, Flow
from bench.results import Bar
from bench.workloads import WORKLOADS, Workload, delete_topics, fill
from local.broker import Broker

#: Whose runs make a bar: both have a name and a label.
Measured = TypeVar("Measured", Engine, Flow, acknowledge.Contender, lookups.Question)

#: How long an engine may take to apply all users, where its memory is measured.
MEMORY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how much of it."""

    runs: int
    users: int
    seconds: float
    load_seconds: float
    live_seconds: float
    lag_seconds: float
    lag_runs: int
    engines: Sequence[Engine]
    #: Names of servers.
    servers: Sequence[str]
    workloads: Sequence[Workload]


class Suite:
    """All works, on one broker."""

    WORKS: ClassVar[Sequence[str]] = (
        "apply",
        "flow",
        "live",
        "outcomes",
        "recovery",
        "memory",
        "acknowledge",
        "lookups",
    )

    def __init__(
        self, broker: Broker, folder: Path, plan: Plan, results_folder: Path, progress: Progress
    ) -> None:
        self._broker = broker
        self._folder = folder
        self._plan = plan
        self._results = results_folder
        self._progress = progress
        self._task = progress.add_task("starting", total=None)
        self._filled: set[str] = set()
        #: Runs with new users that applied all of them, by engine: they tell of memory too.
        self._through: dict[str, list[Any]] = {}

    def measure(self, works: Sequence[str]) -> None:
        """Run the works, and write the results of each as soon as it is done."""
        for work in works:
            getattr(self, f"_{work}")()

    # -- the works

    def _apply(self) -> None:
        told = {}
        for workload in self._plan.workloads:
            bars = self._bars(
                f"apply {workload.label}", self._plan.engines, self._applied(workload)
            )
            told[workload.name] = {
                "label": workload.label,
                "bars": [bar.as_json("per_second", ("cpu_us", "broker_cpu_us")) for bar in bars],
            }
            if workload.name == "new":
                self._through |= {
                    bar.engine: [run for run in bar.runs if run.finished]
                    for bar in bars
                    if bar.engine != OURS
                }
        self._save("apply", users=self._plan.users, seconds=self._plan.seconds, workloads=told)

    def _applied(
        self, workload: Workload, seconds: float | None = None
    ) -> Callable[[Engine], apply.Applied]:
        self._fill(workload)

        def run(engine: Engine) -> apply.Applied:
            place = self._place(workload)
            try:
                return apply.measure(
                    engine,
                    place,
                    self._broker_pid(),
                    self._plan.users,
                    seconds or self._plan.seconds,
                )
            finally:
                self._clear(place)

        return run

    def _flow(self) -> None:
        """Measure the whole flow; in the same runs ours without emails, and Kafka Streams."""
        workload = WORKLOADS["new"]
        applied, settled = self._applied(workload), self._settled(workload, self._plan.seconds)
        apply_only = Bar("apply", "apply to users only")
        flows = [(Bar(flow.name, flow.label), flow) for flow in self._flows()]
        for number in range(self._plan.runs):
            self._run_into(apply_only, applied, ENGINES[OURS], f"flow, run {number + 1}: apply")
            for bar, each in flows:
                self._run_into(bar, settled, each, f"flow, run {number + 1}: {each.label}")
        whole = flows[0][0]
        self._through[OURS] = [run for run in whole.runs if run.finished]
        bars = [apply_only.as_json("per_second", ("cpu_us", "broker_cpu_us"))]
        bars += [
            bar.as_json("per_second", ("cpu_us", "broker_cpu_us", "per_core")) for bar, _ in flows
        ]
        self._save("flow", users=self._plan.users, seconds=self._plan.seconds, bars=bars)

    def _flows(self) -> Sequence[Flow]:
        """Return ours, and Kafka Streams if it is one of the engines to measure exactly once."""
        chosen = any(engine.name == "streams-eos" for engine in self._plan.engines)
        return FLOWS if chosen else [OUR_FLOW]

    def _settled(self, workload: Workload, seconds: float) -> Callable[[Flow], flow.Settled]:
        self._fill(workload)

        def run(each: Flow) -> flow.Settled:
            place = self._place(workload)
            try:
                return flow.measure(each, place, self._broker_pid(), self._plan.users, seconds)
            finally:
                self._clear(place)

        return run

    def _live(self) -> None:
        """Measure at steady rates, and then at which rate the lag begins to grow."""
        pid, seconds = self._broker_pid(), self._plan.live_seconds
        steady: list[Sequence[live.AtRate]] = []
        sustained = Bar(OURS, "no lag grows")
        notes: list[str] = []
        for number in range(self._plan.runs):
            self._step(f"live, run {number + 1}")
            with self._empty_place() as place, self._noted(notes):
                steady.append(live.measure(place, pid, seconds, self._say))
            told = live.as_json(steady, sustained, notes)
            self._save("live", seconds=seconds, lag_seconds=self._plan.lag_seconds, **told)
        for number in range(self._plan.lag_runs):
            self._run_into(sustained, self._sustained, ENGINES[OURS], f"lag, run {number + 1}")
            told = live.as_json(steady, sustained, notes)
            self._save("live", seconds=seconds, lag_seconds=self._plan.lag_seconds, **told)

    def _sustained(self, _engine: Engine) -> live.Sustained:
        with self._empty_place() as place:
            return live.sustain(place, self._broker_pid(), self._plan.lag_seconds, self._say)

    def _outcomes(self) -> None:
        """Measure ours and Kafka Streams with the same client, which knows topics only."""
        pid, seconds = self._broker_pid(), self._plan.live_seconds
        runs: dict[str, list[Sequence[outcomes.AtRate]]] = {flow.name: [] for flow in self._flows()}
        notes: list[str] = []
        for number in range(self._plan.runs):
            for each in self._flows():
                self._step(f"outcomes, run {number + 1}: {each.label}")
                with self._empty_place() as place, self._noted(notes, each.label):
                    runs[each.name].append(outcomes.measure(each, place, pid, seconds))
                    for at in runs[each.name][-1]:
                        self._say(f"{each.label}: {outcomes.told(at)}")
        self._save("outcomes", seconds=seconds, rates=outcomes.by_rate(runs), notes=notes)

    @contextmanager
    def _noted(self, notes: list[str], label: str = "") -> Iterator[None]:
        """Note what goes wrong with a run, and go on."""
        try:
            yield
        except PeerError as error:
            what = "skipped" if isinstance(error, PeerSkipped) else "a run failed"
            notes.append(": ".join(filter(None, (label, what, str(error)))))
            self._say(f"{notes[-1]}\n{error.detail}".strip())

    def _recovery(self) -> None:
        engines = [engine for engine in self._plan.engines if engine.recovers]
        bars = self._bars("recover", [e for e in engines if not e.is_ours], self._recovered)
        bars = [*self._our_recovery([e for e in engines if e.is_ours]), *bars]
        told = [bar.as_json("per_second", ("cpu_us",)) for bar in bars]
        self._save("recovery", users=self._plan.users, seconds=self._plan.seconds, bars=told)

    def _recovered(self, engine: Engine) -> recovery.Recovered:
        group = f"recovery-{engine.name}-{uuid.uuid4().hex[:8]}"
        place = Place(self._broker.address, f"{group}-source", "", group, self._folder / group)
        try:
            return recovery.measure(engine, place, self._plan.users, self._plan.seconds)
        finally:
            self._clear(place)

    def _our_recovery(self, engines: Sequence[Engine]) -> Sequence[Bar]:
        if not engines:
            return []
        workload = WORKLOADS["new"]
        self._fill(workload)
        place = self._place(workload)
        ours = recovery.OurRecovery(place, self._plan.users)
        try:
            ours.apply()
            return self._bars("recover", engines, lambda _engine: ours.measure())
        except PeerError as error:
            return [Bar(engine.name, engine.label, note=str(error)) for engine in engines]
        finally:
            self._clear(place)

    def _memory(self) -> None:
        peers = self._applied(WORKLOADS["new"], MEMORY_SECONDS)
        ours = self._settled(WORKLOADS["new"], MEMORY_SECONDS)
        bars = []
        for engine in self._plan.engines:
            run: Callable[[Engine], Any] = _of(OUR_FLOW, ours) if engine.is_ours else peers
            bar = Bar(engine.name, engine.label, [*self._through.get(engine.name, ())])
            while len(bar.runs) < self._plan.runs and not bar.note:
                self._run_into(bar, run, engine, f"memory: {engine.label}")
                if bar.runs and not bar.runs[-1].finished:
                    applied = bar.runs.pop().records
                    bar.note = f"applied {applied:,} users in {MEMORY_SECONDS:.0f} s"
            bars.append(bar.as_json("peak_mib"))
        self._save("memory", users=self._plan.users, bars=bars)

    def _acknowledge(self) -> None:
        chosen = [each for each in acknowledge.CONTENDERS if each.name in self._plan.servers]
        bars = self._bars("acknowledge", chosen, self._acknowledged)
        works = acknowledge.by_work(chosen, bars)
        self._save("acknowledge", seconds=self._plan.load_seconds, works=works)

    def _acknowledged(self, contender: acknowledge.Contender) -> acknowledge.Acknowledged:
        seconds = self._plan.load_seconds
        return acknowledge.measure(contender, self._empty_place, self._broker_pid(), seconds)

    def _lookups(self) -> None:
        workload = WORKLOADS["new"]
        self._fill(workload)
        place = self._place(workload)
        asked = lookups.Lookups(place, self._plan.users, self._plan.load_seconds)
        self._step(f"lookups: {self._plan.users:,} users are applied")
        try:
            with asked.applied():
                bars = self._bars("lookups", lookups.AT_FULL_SPEED, lambda each: each.ask(asked))
                asked.add_workers()
                self._step("lookups through three workers")
                through = asked.through_all()
                bars += self._bars("lookups", lookups.AT_A_RATE, lambda each: each.ask(asked))
        finally:
            self._clear(place)
        told = [bar.as_json("per_second", ("p50_ms", "p99_ms", "cpu_us")) for bar in bars]
        everywhere = {
            "answers": sum(round(each.per_second * self._plan.load_seconds) for each in through),
            "wrong": sum(each.wrong for each in through),
        }
        self._save("lookups", users=self._plan.users, bars=told, through_all=everywhere)

    @contextmanager
    def _empty_place(self) -> Iterator[Place]:
        """Yield a place of its own, where every topic has the group's name."""
        group = f"run-{uuid.uuid4().hex[:12]}"
        source = f"{group}.user-registrations"
        place = Place(self._broker.address, source, f"{group}.", group, self._folder / group)
        try:
            yield place
        finally:
            self._clear(place)

    # -- what they share

    def _bars(
        self, what: str, measured: Sequence[Measured], run: Callable[[Measured], Any]
    ) -> list[Bar]:
        bars = [Bar(each.name, each.label) for each in measured]
        for number in range(self._plan.runs):
            turns = list(zip(bars, measured, strict=True))
            # A broker grows faster with use: each run begins with another one.
            first = number % len(turns) if turns else 0
            for bar, each in turns[first:] + turns[:first]:
                self._run_into(bar, run, each, f"{what}, run {number + 1}: {each.label}")
        return bars

    def _run_into(
        self, bar: Bar, run: Callable[[Measured], Any], measured: Measured, what: str
    ) -> None:
        """Add a run; what goes wrong with one of them is noted, and the others are measured."""
        self._step(what)
        try:
            bar.runs.append(run(measured))
            self._say(f"{what}: {bar.runs[-1].per_second:,.0f} a second")
        except PeerError as error:
            bar.note = f"{'skipped' if isinstance(error, PeerSkipped) else 'a run failed'}: {error}"
            self._say(f"{what}: {bar.note}\n{error.detail}".strip())

    def _fill(self, workload: Workload) -> None:
        if workload.name not in self._filled:
            self._step(f"writing {self._plan.users:,} records: {workload.label}")
            fill(self._broker.address, workload, self._plan.users)
            self._filled.add(workload.name)

    def _place(self, workload: Workload) -> Place:
        group = f"run-{uuid.uuid4().hex[:12]}"
        return Place(
            self._broker.address, workload.source, workload.prefix, group, self._folder / group
        )

    def _clear(self, place: Place) -> None:
        """Remove what a run left: all but the source and the outcomes have its group's name."""
        delete_topics(self._broker.address, place.group, f"{place.prefix}registration-outcomes")
        rmtree(place.folder, ignore_errors=True)

    def _broker_pid(self) -> int:
        record = self._broker.status()
        assert record is not None, "the broker has ended"
        return record.pid

    def _step(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def _say(self, what: str) -> None:
        self._progress.console.print(what, markup=False, highlight=False)

    def _save(self, name: str, **told: Any) -> None:
        results.save(self._results, name, {"runs": self._plan.runs, **told})


def _of(each: Flow, run: Callable[[Flow], Any]) -> Callable[[Engine], Any]:
    return lambda _engine: run(each)
