"""The state of a verification: each partition adds to it, and later ones use it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.config.settings import Settings
from app.kafka.partition_reader import Extent, Reader
from app.kafka.partitioning import Partitioning
from app.kafka.topics import Topics
from app.ops.verify.emails import FoundClaims
from app.ops.verify.findings import Findings
from app.ops.verify.logs import Logs
from app.ops.verify.markers import Found
from app.ops.verify.multisets import Multiset
from app.ops.verify.places import Offsets, Span
from app.ops.verify.report import Lacking, Totals
from app.ops.verify.splits import Cutting, Handed, parent, pieces


@dataclass(slots=True)
class SettledClaims:
    """The remains of a partition of claims after its fold."""

    span: Span
    is_quiet: bool
    is_whole: bool
    unreadable: Offsets


@dataclass(slots=True)
class DecidedUsers:
    """The remains of a partition of users after its fold: the records that were moved away."""

    span: Span
    is_quiet: bool
    moved: Offsets
    perhaps: Offsets
    kept_moves: dict[int, bytes]


@dataclass(slots=True)
class State:
    """One verification: what it reads, and what it has found."""

    settings: Settings
    partitioning: Partitioning
    topics: Topics
    logs: Logs
    reading: Reader
    findings: Findings

    totals: Totals = field(init=False)
    lacking: Lacking = field(default_factory=Lacking)
    users_markers: list[Found] = field(default_factory=list)
    emails_markers: list[Found] = field(default_factory=list)
    #: By partition of claims, and by partition of users.
    settled: list[SettledClaims] = field(default_factory=list)
    decided: list[DecidedUsers] = field(default_factory=list)
    #: By partition of users: the claims that were found, and the verdicts that they need.
    claims: list[FoundClaims] = field(init=False)
    verdicts: list[Multiset] = field(init=False)
    #: By partition that was split off: its first rows.
    handed_emails: dict[int, Handed] = field(default_factory=dict)
    handed_users: dict[int, Handed] = field(default_factory=dict)
    #: Which user holds which address, according to each table.
    held_by_users: Multiset = field(default_factory=Multiset)
    held_in_emails: Multiset = field(default_factory=Multiset)
    #: By the partition of the originals: copies elsewhere, and outcomes that report them.
    copies: defaultdict[int, list[Multiset]] = field(default_factory=lambda: defaultdict(list))
    moves_told: defaultdict[int, list[Multiset]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        numbers = range(self.logs.partitions)
        self.totals = Totals(len(numbers))
        self.claims = [FoundClaims() for _ in numbers]
        self.verdicts = [Multiset() for _ in numbers]

    @property
    def claims_are_quiet(self) -> bool:
        """Whether every claim that was found is applied."""
        return all(settled.is_quiet for settled in self.settled)

    def cutting(self, log: Extent) -> Cutting:
        """Return the pieces into which repartitions have cut a log."""
        return Cutting(log.partition, pieces(self.partitioning, log.topic, log.partition))

    def origin(self, logs: Sequence[Extent], number: int) -> Extent:
        """Return the log with the beginning of a partition, which may have been split off."""
        before = parent(self.partitioning, number)
        if logs[number].start or before is None:
            return logs[number]
        return self.origin(logs, before)
