"""The faults, one after the other, spread over the whole load."""

import time
from collections.abc import Callable, Sequence

from tests.chaos.cluster import Cluster
from tests.chaos.deletions import Deletions
from tests.chaos.load import Load
from tests.chaos.readers import Readers
from tests.chaos.report import Fault
from tests.chaos.schedule import Kind, Step
from tests.chaos.strays import Strays

#: The clients may be behind the plan by so much of it before the faults wait for them.
LEEWAY = 0.6
READY_WITHIN_SECONDS = 15.0
HURRY_SECONDS = 0.5

#: Told what happens, and how many registrations are acknowledged.
Tell = Callable[[str, int], None]


class Storm:
    """Does the faults of a schedule to a cluster while clients write."""

    def __init__(
        self,
        cluster: Cluster,
        load: Load,
        readers: Readers,
        strays: Strays,
        deletions: Deletions,
        steps: Sequence[Step],
        tell: Tell,
    ) -> None:
        self.faults: list[Fault] = []
        self._cluster = cluster
        self._load = load
        self._readers = readers
        self._strays = strays
        self._deletions = deletions
        self._steps = steps
        self._tell = tell
        self._began = time.monotonic()

    def rage(self, deadline: float) -> None:
        """Do all faults, then wait for the clients; both end by the deadline."""
        planned = [step.nominal_seconds for step in self._steps]
        for index, step in enumerate(self._steps):
            ahead = sum(planned[index:])
            self._load.last_at = time.monotonic() + ahead
            self._load.limit = 1 - (ahead - planned[index]) / sum(planned)
            share = (1 - ahead / sum(planned)) * LEEWAY
            self._pause(step, share, deadline - ahead)
            self._strays.write()
            self._do(step)
        self._load.last_at, self._load.limit = 0.0, 1.0
        self._wait_until(lambda: self._load.done, deadline, "the last registrations")

    def _pause(self, step: Step, share: float, latest: float) -> None:
        """Let time go by, and the clients come as far as the plan wants them before this fault."""
        earliest = time.monotonic() + step.pause_seconds
        self._wait_until(lambda: time.monotonic() >= earliest, earliest + 1, "calm")
        if self._cluster.is_up:
            self._wait_until(lambda: self._load.share >= share, latest, "waiting for clients")
        if step.kind is Kind.WORKER_SUSPENDED:
            soon = time.monotonic() + READY_WITHIN_SECONDS
            ready = self._cluster.is_ready
            self._wait_until(lambda: ready(step.worker), soon, f"{step} once it is ready")

    def _do(self, step: Step) -> None:
        if step.rebalance:
            self._tell(f"a rebalance before {step}", len(self._load.tally.registered))
            self._cluster.rebalance()
        self._hurry(step)
        tally, began = self._load.tally, time.monotonic()
        in_flight = self._load.traffic.requests_in_flight
        now = (len(tally.registered), in_flight, tally.writes_in_flight)
        self._tell(str(step), now[0])
        self._load.hurried = False
        self._actions[step.kind](step)
        took = time.monotonic() - began
        at = began - self._began
        when = round(at, 1), round(took, 1)
        self.faults.append(Fault(step.kind, step.worker, *when, *now, step.rebalance))

    def _hurry(self, step: Step) -> None:
        """Have every client in the middle of a request, for there is something to be lost."""
        if step.kind is not Kind.WORKER_STARTED:
            self._load.hurried = True
            soon = time.monotonic() + HURRY_SECONDS
            self._wait_until(lambda: self._load.busy, soon, "all clients write")

    @property
    def _actions(self) -> dict[Kind, Callable[[Step], None]]:
        cluster = self._cluster
        return {
            Kind.WORKER_KILLED: lambda step: cluster.kill(step.worker),
            Kind.WORKER_STOPPED: lambda step: cluster.stop(step.worker),
            Kind.WORKER_STARTED: self._start,
            Kind.BROKER_KILLED: lambda _: cluster.restart_broker(),
            Kind.WORKER_SUSPENDED: self._suspend,
            Kind.RECORD_POISONED: lambda _: self._strays.poison(),
            Kind.RECORDS_DELETED: lambda _: self._deletions.delete(),
        }

    def _suspend(self, step: Step) -> None:
        self._cluster.suspend(step.worker, self._readers.settles, self._readers.crowd)

    def _start(self, step: Step) -> None:
        self._cluster.start(step.worker)
        if step.patient:
            soon = time.monotonic() + READY_WITHIN_SECONDS
            self._wait_until(lambda: self._cluster.is_ready(step.worker), soon, str(step))

    def _wait_until(self, condition: Callable[[], bool], latest: float, what: str) -> None:
        """Wait for a condition, not longer than until the latest time."""

        def holds() -> bool:
            self._tell(what, len(self._load.tally.registered))
            return condition() or time.monotonic() >= latest

        self._cluster.wait(holds, max(latest - time.monotonic(), 0) + 30, what)
