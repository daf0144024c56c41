"""The engines with all three hops, emails included: ours, and the same in Kafka Streams.

Both read registrations, make a pending row, send a claim to the partition of the address, a
decision back, and an outcome to a topic of outcomes, each hop in transactions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum

from bench import java
from bench.engines import (
    OURS,
    Place,
    Running,
    arguments,
    email_patterns,
    peer_running,
    whole_worker,
    words,
    worker_running,
)
from bench.servers import OUR_WORKER
from bench.workloads import make_topic

#: As many as the machine that results are made on has cores.
STREAMS_THREADS = 2
#: The default of Kafka Streams with transactions, and the shortest that is of use.
COMMIT_INTERVALS_MS = (100, 10)


class Tuning(StrEnum):
    """What Kafka Streams is tuned for; ours has one set of settings."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"


@dataclass(frozen=True, slots=True)
class Flow:
    """One engine: how it runs, and the names of its topics at a place."""

    name: str
    label: str
    running: Callable[[Place, Tuning], AbstractContextManager[Running]]
    claims: Callable[[Place], str]
    decisions: Callable[[Place], str]
    outcomes: Callable[[Place], str]

    @property
    def is_ours(self) -> bool:
        """Whether it is the registry's own engine."""
        return self.name == OURS


@contextmanager
def _ours(place: Place, tuning: Tuning) -> Iterator[Running]:
    if tuning is Tuning.LATENCY:
        with OUR_WORKER.running(place) as running:  # that waits until it is ready
            yield running
    else:
        with worker_running(whole_worker(place)) as running:
            yield running


def _streams(interval_ms: int) -> Callable[[Place, Tuning], AbstractContextManager[Running]]:
    @contextmanager
    def run(place: Place, tuning: Tuning) -> Iterator[Running]:
        topics = {name: f"{place.group}-{name}" for name in ("claims", "decisions", "outcomes")}
        told = {
            **topics,
            "threads": str(STREAMS_THREADS),
            "commit-interval-ms": str(interval_ms),
            "tuned-for": str(tuning),
        }
        command = [
            *java.kafka_streams(java.FLOW),
            *words(told),
            *words(email_patterns()),
            *arguments(place),
        ]
        for topic in topics.values():
            make_topic(place.brokers, topic)
        with peer_running(command, place.folder) as running:
            yield running

    return run


OUR_FLOW = Flow(
    OURS,
    "this registry",
    _ours,
    lambda place: f"{place.prefix}{place.group}-email-claims",
    lambda place: f"{place.prefix}{place.group}-email-decisions",
    lambda place: f"{place.prefix}registration-outcomes",
)

STREAMS_FLOWS: Sequence[Flow] = tuple(
    Flow(
        f"streams-{interval_ms}",
        f"Kafka Streams, exactly once, commits every {interval_ms} ms",
        _streams(interval_ms),
        lambda place: f"{place.group}-claims",
        lambda place: f"{place.group}-decisions",
        lambda place: f"{place.group}-outcomes",
    )
    for interval_ms in COMMIT_INTERVALS_MS
)

FLOWS: Sequence[Flow] = (OUR_FLOW, *STREAMS_FLOWS)
