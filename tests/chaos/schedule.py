"""Which faults happen, to whom and in which order: the same for the same seed."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

#: How often the only worker that is left may be taken away: then nobody takes writes for a while.
NOBODY_LEFT_SHARE = 0.2
#: How often the next fault waits until a worker that was started is ready.
PATIENT_SHARE = 0.7
#: A worker's session. Who stands still for longer is missed, and goes on when others have taken
#: over; that takes some seconds, and is not waited for longer than this.
SESSION_SECONDS = 10.0
TAKEN_OVER_SECONDS = 20.0
#: So long before it goes on it is asked for what others have applied.
ASKED_SECONDS = 0.5


class Kind(StrEnum):
    """What is done to the registry."""

    WORKER_KILLED = "worker killed"
    WORKER_STOPPED = "worker stopped"
    WORKER_STARTED = "worker started"
    BROKER_KILLED = "broker killed"
    WORKER_SUSPENDED = "worker suspended"
    RECORD_POISONED = "record poisoned"
    RECORDS_DELETED = "records deleted"


#: About how long each fault takes on two cores, beside the pause before it: the load's pace is
#: planned with these, so that the writes last as long as the faults.
NOMINAL_SECONDS: Mapping[Kind, float] = {
    Kind.WORKER_KILLED: 0.1,
    Kind.WORKER_STOPPED: 1.5,
    Kind.WORKER_STARTED: 3.5,
    Kind.BROKER_KILLED: 6.0,
    Kind.WORKER_SUSPENDED: SESSION_SECONDS + 5,
    Kind.RECORD_POISONED: 0.1,
    Kind.RECORDS_DELETED: 0.5,
}
#: And about how long until the group notices a new worker, or one that has left.
REBALANCE_SECONDS = 8.0
#: What happens to no worker.
TO_NO_WORKER = (Kind.BROKER_KILLED, Kind.RECORD_POISONED, Kind.RECORDS_DELETED)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault: the worker that it happens to (0: none), and the pause before it.

    With ``rebalance``, it happens while the group rebalances: a worker has come or gone.
    """

    kind: Kind
    worker: int
    pause_seconds: float
    patient: bool = False
    rebalance: bool = False

    @property
    def nominal_seconds(self) -> float:
        """About how long the step takes, with its pause."""
        joining = REBALANCE_SECONDS if self.rebalance else 0.0
        return self.pause_seconds + joining + NOMINAL_SECONDS[self.kind]

    def __str__(self) -> str:
        return f"{self.kind} ({self.worker})" if self.worker else str(self.kind)


def wanted(faults: int, suspensions: int, deletions: int) -> Mapping[Kind, int]:
    """Return how often each kind happens, for so many of each; every worker is started again."""
    return {
        Kind.WORKER_KILLED: faults,
        Kind.WORKER_STOPPED: faults,
        Kind.WORKER_STARTED: 2 * faults,
        Kind.BROKER_KILLED: faults,
        Kind.WORKER_SUSPENDED: suspensions,
        Kind.RECORD_POISONED: faults,
        Kind.RECORDS_DELETED: deletions,
    }


def schedule(
    seed: int,
    workers: int,
    counts: Mapping[Kind, int],
    longest_pause_seconds: float,
    *,
    rebalances: int,
) -> Sequence[Step]:
    """Return the faults in an order that the seed decides; after the last, all workers are up.

    The first faults of so many kinds happen in a rebalance.
    """
    chance = random.Random(seed)
    left, up, steps = Counter(counts), set(range(1, workers + 1)), list[Step]()
    while kinds := _possible(+left, len(up), workers, chance):
        kind = chance.choices(kinds, [left[kind] for kind in kinds])[0]
        left[kind] -= 1
        worker = _target(kind, up, workers, chance)
        pause = chance.uniform(longest_pause_seconds / 4, longest_pause_seconds)
        known = {step.kind for step in steps}
        rebalance = kind not in known and len(known) < rebalances
        steps.append(Step(kind, worker, pause, chance.random() < PATIENT_SHARE, rebalance))
        if kind is Kind.WORKER_STARTED:
            up.add(worker)
        elif kind in (Kind.WORKER_KILLED, Kind.WORKER_STOPPED):
            up.remove(worker)
    return steps


def _possible(left: Counter[Kind], up: int, workers: int, chance: random.Random) -> list[Kind]:
    """Return the kinds that can come next; none only when all have happened."""
    if not up:
        return [Kind.WORKER_STARTED]
    enough = min(2, workers)
    takes_last = chance.random() < NOBODY_LEFT_SHARE
    can = {
        Kind.WORKER_KILLED: up >= enough or takes_last,
        Kind.WORKER_STOPPED: up >= enough or takes_last,
        Kind.WORKER_STARTED: up < workers,
        Kind.BROKER_KILLED: True,
        Kind.WORKER_SUSPENDED: up >= enough,
        Kind.RECORD_POISONED: True,
        Kind.RECORDS_DELETED: True,
    }
    return [kind for kind in Kind if left[kind] and can[kind]]


def _target(kind: Kind, up: set[int], workers: int, chance: random.Random) -> int:
    if kind in TO_NO_WORKER:
        return 0
    everyone = set(range(1, workers + 1))
    return chance.choice(sorted(everyone - up if kind is Kind.WORKER_STARTED else up))
