"""The order of the measurements: every run takes each engine in turn; none has a better hour."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar

from rich.progress import Progress

from bench import acknowledge, apply, recovery, results
from bench.engines import Engine, Place
from bench.errors import PeerError, PeerSkipped
from bench.results import Bar
from bench.workloads import WORKLOADS, Workload, delete_topics, fill
from local.broker import Broker
from tests.worker import Registry

#: How long an engine may take to apply all users, where its memory is measured.
MEMORY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how much of it."""

    runs: int
    users: int
    seconds: float
    requests: int
    engines: Sequence[Engine]
    workloads: Sequence[Workload]


class Suite:
    """All works, on one broker."""

    WORKS: ClassVar[Sequence[str]] = ("apply", "recovery", "memory", "acknowledge")

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
        self._through: dict[str, list[apply.Applied]] = {}

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
                self._through = {bar.engine: [r for r in bar.runs if r.finished] for bar in bars}
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
        run = self._applied(WORKLOADS["new"], MEMORY_SECONDS)
        bars = []
        for engine in self._plan.engines:
            bar = Bar(engine.name, engine.label, [*self._through.get(engine.name, ())])
            while len(bar.runs) < self._plan.runs and not bar.note:
                self._run_into(bar, run, engine, f"memory: {engine.label}")
                if bar.runs and not bar.runs[-1].finished:
                    applied = bar.runs.pop().records
                    bar.note = f"applied {applied:,} users in {MEMORY_SECONDS:.0f} s"
            bars.append(bar.as_json("peak_mib"))
        self._save("memory", users=self._plan.users, bars=bars)

    def _acknowledge(self) -> None:
        requests = self._plan.requests
        batches = max(requests // acknowledge.BATCH, 64)
        works: dict[str, Callable[[], acknowledge.Acknowledged]] = {
            "one a request": lambda: self._asked(acknowledge.singles, requests),
            "tRPC batch of 100": lambda: self._asked(acknowledge.trpc_batches, batches),
            "bare aiohttp answer": lambda: acknowledge.bare(requests),
        }
        bars = {name: Bar(name, name) for name in works}
        for _ in range(self._plan.runs):
            for name, work in works.items():
                self._step(f"acknowledge: {name}")
                bars[name].runs.append(work())
        told = [bar.as_json("per_second", ("p50_ms", "p99_ms")) for bar in bars.values()]
        self._save("acknowledge", requests=requests, bars=told)

    def _asked(
        self, ask: Callable[[str, int], acknowledge.Acknowledged], requests: int
    ) -> acknowledge.Acknowledged:
        registry = Registry(self._broker.address, self._folder)
        with registry.worker() as worker:
            return ask(worker.url, requests)

    # -- what they share

    def _bars(
        self, what: str, engines: Sequence[Engine], run: Callable[[Engine], Any]
    ) -> list[Bar]:
        bars = [Bar(engine.name, engine.label) for engine in engines]
        for number in range(self._plan.runs):
            turns = list(zip(bars, engines, strict=True))
            # A broker grows faster with use: each run begins with another engine.
            first = number % len(turns) if turns else 0
            for bar, engine in turns[first:] + turns[:first]:
                self._run_into(bar, run, engine, f"{what}, run {number + 1}: {engine.label}")
        return bars

    def _run_into(self, bar: Bar, run: Callable[[Engine], Any], engine: Engine, what: str) -> None:
        """Add a run; what goes wrong with one engine is noted, and the others are measured."""
        self._step(what)
        try:
            bar.runs.append(run(engine))
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
        """Remove what a run left: its changelogs have its group in their names."""
        delete_topics(self._broker.address, place.group)
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
