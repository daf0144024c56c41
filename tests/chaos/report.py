"""What a run came to: for people in a few lines, for machines as JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

import orjson

from app.domain.outcomes import Outcome
from tests.chaos.cluster import Ending
from tests.chaos.writes import ERASURES, UPDATES

#: Why a record is rejected.
REASONS = [outcome.reason for outcome in Outcome if outcome.reason]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that happened, and what was going on at that moment."""

    kind: str
    worker: int
    at_seconds: float
    seconds: float
    acknowledged: int
    requests_in_flight: int
    writes_in_flight: int
    #: Whether the group was rebalancing, because a worker had come or gone.
    in_rebalance: bool

    def __str__(self) -> str:
        worker = f" {self.worker}" if self.worker else ""
        return (
            f"{self.at_seconds:6.1f} s  {self.kind + worker:<19} took {self.seconds:4.1f} s; "
            f"{self.acknowledged:>7,} acknowledged, {self.requests_in_flight} requests with "
            f"{self.writes_in_flight} writes in flight"
            f"{', in a rebalance' if self.in_rebalance else ''}"
        )


@dataclass
class Report:
    """The result of a run; it is good if nothing is wrong."""

    seed: int
    registrations: int
    workers: int
    clients: int
    folder: str
    wanted: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    acknowledged: int = 0
    #: Acknowledged writes, by what they were for, and those among them that asked for an address
    #: that others asked for, too.
    writes: dict[str, int] = field(default_factory=dict)
    contended: int = 0
    strays: int = 0
    unreadable: int = 0
    #: Lookups during the storm, by what was answered, and what of it was checked.
    lookups: dict[str, int] = field(default_factory=dict)
    claims: int = 0
    requests: int = 0
    tries_in_vain: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    longest_without_ack_seconds: float = 0.0
    endings: list[Ending] = field(default_factory=list)
    stop_statuses: list[int] = field(default_factory=list)
    #: What became of all records, and of how many addresses more than one id had a claim.
    outcomes: dict[str, int] = field(default_factory=dict)
    contended_addresses: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    #: After the storm, and after the stores were deleted: by topic and partition.
    lag: list[dict[str, dict[int, int]]] = field(default_factory=list)
    verified: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every promise held."""
        return not self.wrong

    @property
    def in_flight_at_faults(self) -> int:
        """Writes that were under way when a fault happened, over all faults."""
        return sum(fault.writes_in_flight for fault in self.faults)

    @property
    def updates(self) -> int:
        """Acknowledged updates."""
        return sum(self.writes.get(kind, 0) for kind in UPDATES)

    @property
    def erasures(self) -> int:
        """Acknowledged erasures."""
        return sum(self.writes.get(kind, 0) for kind in ERASURES)

    @property
    def rejections(self) -> dict[str, int]:
        """How many records were rejected, by the reason."""
        return {reason: self.outcomes[reason] for reason in REASONS if reason in self.outcomes}

    def encode(self) -> bytes:
        """Return the report as JSON."""
        result = {
            "good": self.good,
            **asdict(self),
            "updates": self.updates,
            "erasures": self.erasures,
            "rejections": self.rejections,
            "in_flight_at_faults": self.in_flight_at_faults,
        }
        if self.good:
            del result["folder"]  # it is gone
        return orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n"

    def summary(self) -> str:
        """Return the report for people."""
        return "\n".join([*map(str, self.faults), "", *self._totals(), *self._verdict()])

    def _totals(self) -> Iterator[str]:
        counts = ", ".join(f"{kind} {count} x" for kind, count in self.counts.items())
        yield f"seed            {self.seed}"
        yield f"faults          {counts}"
        yield f"acknowledged    {self.acknowledged:,} of {self.registrations:,} registrations"
        yield f"                {_listed(self.writes)}"
        yield f"updates         {self.updates:,}, erasures {self.erasures:,}"
        yield f"contended       {self.contended:,} for {self.contended_addresses:,} addresses"
        yield f"outcomes        {_listed(self.outcomes)}"
        yield f"by a producer   {self.strays:,} registrations, {self.unreadable} unreadable records"
        yield f"lookups         {_listed(self.lookups)}; {self.claims:,} claims checked"
        yield f"in flight       {self.in_flight_at_faults:,} writes when faults happened"
        yield f"sent again      {self.tries_in_vain:,} tries without an acknowledgement"
        yield f"                {_listed(self.failures)}"
        yield f"longest         {self.longest_without_ack_seconds:.1f} s without an acknowledgement"
        yield f"rows            {_listed(self.rows)}"
        for lag in self.lag:
            yield f"lag             {_listed({n: sum(each.values()) for n, each in lag.items()})}"
        yield f"verify          {self.verified or 'not run'}"
        yield f"SIGTERM         exit statuses {self.stop_statuses}"
        yield f"ended alone     {len(self.endings)} workers"
        for ending in self.endings:
            why = ", started without a broker" if ending.excused else ""
            status = f"status {ending.status}{why}"
            yield f"                {ending.worker}: {status}: {ending.last_line}"
        yield f"seconds         {_listed({n: round(s, 1) for n, s in self.seconds.items()})}"

    def _verdict(self) -> Iterator[str]:
        yield ""
        yield from (f"WRONG: {what}" for what in self.wrong)
        yield "all promises held" if self.good else f"logs and data: {self.folder}"


def _listed(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
