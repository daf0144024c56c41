"""The report of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from time import perf_counter
from typing import Any

import numpy as np

from tools.load.latencies import Counts, percentile
from tools.load.options import Options
from tools.load.schedule import LATE_SECONDS
from tools.load.tally import Tally

#: The client is the limit if it uses more of a core.
BUSY_SHARE = 0.9
#: A smaller share of late requests does not change the percentiles that matter.
LATE_SHARE = 0.01

Milliseconds = Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run; docs/guides/load.md describes each field."""

    started: datetime
    options: Mapping[str, object]
    interrupted: bool
    seconds: float
    requests: int
    registrations: int
    acknowledged: int
    rejected: int
    refused: Mapping[str, Mapping[str, int]]
    errors: Mapping[str, int]
    retries: int
    registrations_per_second: float
    requests_per_second: float
    service_ms: Milliseconds
    response_ms: Milliseconds
    refusal_ms: Milliseconds
    late: int
    late_by_client: int
    not_begun: int
    client_cpu: float
    client_limited: bool
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON members."""
        members = asdict(self)
        return {**members, "started": self.started.isoformat(timespec="milliseconds")}


def report(options: Options, tally: Tally, started: datetime, *, interrupted: bool) -> Report:
    """Return the report of a tally."""
    seconds = tally.seconds
    answered = tally.requests - tally.errors.total()
    limits = _client_limits(tally)
    is_open = options.rate is not None
    return Report(
        started=started,
        options=_told(options),
        interrupted=interrupted,
        seconds=round(seconds, 3),
        requests=tally.requests,
        registrations=tally.offered,
        acknowledged=tally.acknowledged,
        rejected=tally.rejected,
        refused={str(status): asdict(each) for status, each in sorted(tally.refused.items())},
        errors=dict(tally.errors),
        retries=tally.retries,
        registrations_per_second=_rate(tally.acknowledged, seconds),
        requests_per_second=_rate(answered, seconds),
        service_ms=tally.service.milliseconds(),
        response_ms=tally.response.milliseconds() if is_open else None,
        refusal_ms=tally.refusal.milliseconds(),
        late=tally.late,
        late_by_client=round(tally.held_up),
        not_begun=tally.not_begun,
        client_cpu=round(tally.cpu_share, 3),
        client_limited=bool(limits),
        notes=(*limits, *_notes(options, tally)),
    )


def _told(options: Options) -> dict[str, object]:
    """Return the options, without the key."""
    told = {
        name: str(value) if name in ("ca_file", "keep_ids") and value is not None else value
        for name, value in asdict(options).items()
        if name != "key"
    }
    return {**told, "batch": options.size, "duration": options.seconds}


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds else 0.0


def _client_limits(tally: Tally) -> list[str]:
    """Return why the client was the limit, one sentence for each reason."""
    limits = []
    if tally.cpu_share > BUSY_SHARE:
        limits.append(
            f"The client was the limit: it used {tally.cpu_share:.0%} of a core. "
            "The deployment may take more than this."
        )
    if tally.held_up > LATE_SHARE * tally.requests:
        limits.append(
            f"The client was the limit: {tally.held_up:,.0f} requests were held up by over "
            f"{LATE_SECONDS * 1e3:g} ms because it was busy or did not have the processor. "
            "Response times hold this time, too."
        )
    return limits


def _notes(options: Options, tally: Tally) -> list[str]:
    """Return notes that are needed to read the figures."""
    notes = []
    if options.rate is None:
        notes.append(
            "Full speed is a closed model: a client that waits for an answer sends nothing, so "
            "latencies omit the waiting of those who would have come. Use --rate for these."
        )
    waited = tally.late - tally.held_up
    if waited > LATE_SHARE * tally.requests:
        notes.append(
            f"{waited:,.0f} requests waited for a free connection: the deployment did not keep up, "
            "or --connections are too few. Response times hold this time, service times do not."
        )
    if tally.not_begun:
        notes.append(
            f"{tally.not_begun:,} requests that were due could not be begun before the end; "
            "latencies omit them."
        )
    if tally.errors:
        notes.append("Requests without an answer count as errors; latencies omit them.")
    return notes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Progress of a run: rate and latencies since the last snapshot, the rest since the start."""

    fraction: float
    acknowledged: int
    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    refused: int
    errors: int


class Snapshots:
    """Takes snapshots of a tally."""

    def __init__(self) -> None:
        self._tally: Tally | None = None
        self._at = 0.0
        self._acknowledged = 0
        self._counts: Counts = np.zeros(0, dtype=np.int64)

    def take(self, tally: Tally, fraction: float) -> Snapshot:
        """Return the progress."""
        if tally is not self._tally:
            self._tally, self._at, self._acknowledged = tally, tally.since, 0
            self._counts = np.zeros_like(tally.response.counts)
        now = perf_counter()
        fresh = tally.response.counts - self._counts
        some = bool(fresh.any())
        taken = Snapshot(
            fraction,
            tally.acknowledged,
            _rate(tally.acknowledged - self._acknowledged, now - self._at),
            percentile(fresh, 50) if some else None,
            percentile(fresh, 99) if some else None,
            sum(each.requests for each in tally.refused.values()),
            tally.errors.total(),
        )
        self._at, self._acknowledged = now, tally.acknowledged
        self._counts = tally.response.counts.copy()
        return taken
