"""What a verification has found so far: each partition adds to it, and later ones need it."""

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
    """What is left of a partition of claims once it is folded."""

    span: Span
    is_quiet: bool
    is_whole: bool
    unreadable: Offsets


@dataclass(slots=True)
class DecidedUsers:
    """What is left of a partition of users once it is folded: the records that were moved away."""

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
    #: Of each partition of claims, and of each of users.
    settled: list[SettledClaims] = field(default_factory=list)
    decided: list[DecidedUsers] = field(default_factory=list)
    #: By partition of the users: claims of theirs that were found, verdicts that they must get.
    claims: list[FoundClaims] = field(init=False)
    verdicts: list[Multiset] = field(init=False)
    #: By partition that was split off: what it began with.
    handed_emails: dict[int, Handed] = field(default_factory=dict)
    handed_users: dict[int, Handed] = field(default_factory=dict)
    #: Who holds which address, by either table.
    held_by_users: Multiset = field(default_factory=Multiset)
    held_in_emails: Multiset = field(default_factory=Multiset)
    #: By the partition where records were first: copies elsewhere, outcomes that tell of them.
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
        """Return where a repartition has cut a log."""
        return Cutting(log.partition, pieces(self.partitioning, log.topic, log.partition))

    def origin(self, logs: Sequence[Extent], number: int) -> Extent:
        """Return the log that has the beginning of a partition, which may have been split off."""
        before = parent(self.partitioning, number)
        if logs[number].start or before is None:
            return logs[number]
        return self.origin(logs, before)
