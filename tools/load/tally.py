"""Counts and latencies of the requests in one span of time."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tools.load.latencies import Latencies
from tools.load.modes import Verdict
from tools.load.schedule import LATE_SECONDS


@dataclass(slots=True)
class Refused:
    """Refusals with one status: requests, registrations, and requests with ``Retry-After``."""

    requests: int = 0
    registrations: int = 0
    with_retry_after: int = 0


@dataclass(slots=True)
class Tally:
    """Counts from a moment on."""

    since: float = field(default_factory=time.perf_counter)
    _cpu_since: float = field(default_factory=time.process_time)
    #: Requests that were sent. Each is answered, or an error.
    requests: int = 0
    #: Registrations offered in them.
    offered: int = 0
    acknowledged: int = 0
    rejected: int = 0
    refused: dict[int, Refused] = field(default_factory=dict)
    #: Requests without an answer, by cause.
    errors: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    #: Requests that began late, and those of them that our own event loop delayed.
    late: int = 0
    held_up: float = 0.0
    #: Requests that were due and never got a connection.
    not_begun: int = 0
    #: Latencies of requests with an acknowledgement: since they were sent, and since they were due.
    service: Latencies = field(default_factory=Latencies)
    response: Latencies = field(default_factory=Latencies)
    #: Latencies of requests that were refused completely, since they were sent.
    refusal: Latencies = field(default_factory=Latencies)
    last_answer_at: float = 0.0
    #: CPU time of this process, as a share of one core.
    cpu_share: float = 0.0

    def begin(self, due: float, now: float, registrations: int) -> None:
        """Count a request that is about to be sent."""
        self.requests += 1
        self.offered += registrations
        self.late += now - due > LATE_SECONDS

    @property
    def seconds(self) -> float:
        """Seconds up to the last answer."""
        return max(self.last_answer_at - self.since, 0.0)

    def count(
        self, verdict: Verdict, retry_after: str | None, service: float, response: float
    ) -> None:
        """Count an answer, and the seconds since its request was sent and since it was due."""
        if verdict.acknowledged:
            self.acknowledged += len(verdict.acknowledged)
            self.service.add(service)
            self.response.add(response)
        elif verdict.refused:
            self.refusal.add(service)
        self.rejected += verdict.rejected
        if verdict.refused:
            self._refuse(verdict.refused, said_when=retry_after is not None)

    def _refuse(self, registrations: Mapping[int, int], *, said_when: bool) -> None:
        for status, count in registrations.items():
            refused = self.refused.setdefault(status, Refused())
            refused.requests += 1
            refused.registrations += count
            refused.with_retry_after += said_when

    def end(self, not_begun: int) -> None:
        """Note the end of sending: how many requests were not begun, and the CPU time."""
        self.not_begun = not_begun
        wall = time.perf_counter() - self.since
        self.cpu_share = (time.process_time() - self._cpu_since) / wall
