"""Bodies of answers, where no handler has a model of them: for the OpenAPI document."""

from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from app.domain.errors import Unavailable
from app.domain.records import (
    SOMETHING_CHANGES,
    Condition,
    Email,
    Name,
    SentName,
    User,
    UserId,
)
from app.query.overview.numbers import PartitionLag


class Accepted(TypedDict):
    """A write that is durable: in Kafka, at a position."""

    status: Literal["accepted", "replayed", "updated", "erased"]
    id: UserId
    position: str


class Sent(TypedDict):
    """A write that is settled, as a key without the scope lookup is told: with what was sent."""

    status: Literal["registered", "replayed", "updated"]
    id: UserId
    position: str
    name: NotRequired[Name]
    email: NotRequired[Email]


@with_config(ConfigDict(json_schema_extra=SOMETHING_CHANGES))
class Change(Condition):
    """What PATCH takes: a new name, a new address or both."""

    name: NotRequired[SentName]
    email: NotRequired[Email]


class UserPage(TypedDict):
    """Users in the order of their ids; without ``next`` it is the last page."""

    users: list[User]
    next: NotRequired[str]
    stale_seconds: NotRequired[float]


#: A day in UTC: ``2026-01-31``.
Day = Annotated[str, Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class UserCount(TypedDict):
    """How many users there are, in all and by the day (UTC) of their registration.

    Of the newest 60 days with users who are there still. Where ``since`` is told, users have
    registered on earlier days, too: they count, but not by day.
    """

    users: Annotated[int, Field(ge=0)]
    days: dict[Day, Annotated[int, Field(ge=1)]]
    since: NotRequired[Day]
    stale_seconds: NotRequired[float]


class NewestUsers(TypedDict):
    """Users, newest first; without ``next`` no more of them are remembered."""

    users: list[User]
    next: NotRequired[str]
    #: Partitions that nobody told of, because they are moving or recovering.
    missing_partitions: NotRequired[list[int]]


class WrongField(TypedDict):
    """What is wrong with an input, and where: a JSON pointer (RFC 6901)."""

    pointer: str
    detail: str


class WrongRow(TypedDict):
    """A row of a batch that is no registration."""

    index: Annotated[int, Field(ge=0)]
    errors: list[WrongField]


class BatchReport(TypedDict):
    """What became of the rows of a batch; of many wrong rows, the first ones are listed."""

    accepted: Annotated[int, Field(ge=0)]
    rejected: list[WrongRow]


class Receipt(TypedDict):
    """What came of a row: its position, what is wrong with it, or why it was not written."""

    #: A line without an index is the last one: the rows from there on were not read.
    index: NotRequired[Annotated[int, Field(ge=0)]]
    id: NotRequired[UserId]
    position: NotRequired[str]
    errors: NotRequired[list[WrongField]]
    problem: NotRequired["Problem"]


class Health(TypedDict):
    """How a worker is."""

    status: Literal["live", "ready", "not ready"]
    reasons: NotRequired[list[str]]


class DeadLetters(TypedDict):
    """What could not be applied: causes, and the newest letters."""

    causes: list[dict[str, Any]]
    letters: list[dict[str, Any]]
    truncated: bool


class ReplayedLetter(TypedDict):
    """A dead letter that was replayed: where its record came in, and where it stands now."""

    position: str
    replayed_as: str


class Latencies(TypedDict):
    """How long acknowledgements took, in milliseconds."""

    p50: float
    p99: float


class OwnedPartitions(TypedDict):
    """A worker, and which partitions it owns, recovers, or keeps copies of."""

    url: str
    owned: list[int]
    recovering: list[int]
    standby: list[int]


class NewestUser(TypedDict):
    """A user as the overview has it; ``url`` is a path of this interface."""

    id: UserId
    name: Name
    status: Literal["pending", "registered"]
    registered_at: datetime
    url: str


class Overview(TypedDict):
    """What the registry is doing; rates and latencies are those of the last seconds."""

    seconds: float
    writes_per_second: dict[str, float]
    outcomes_per_second: dict[str, float]
    #: Null if nothing was written.
    acknowledgement_ms: Latencies | None
    #: Since each worker started.
    outcomes: dict[str, float]
    partitions: int
    #: Null while some partition moves or recovers.
    users: int | None
    lag: list[PartitionLag]
    workers: list[OwnedPartitions]
    #: Addresses of workers that did not answer.
    unavailable: list[str]
    newest: list[NewestUser]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: Annotated[str, Field(pattern="^urn:user-registry:problem:")]
    title: str
    status: int
    detail: str
    errors: list[WrongField] = []
    #: Why nobody can answer, of `not-ready`.
    cause: Unavailable | None = None


class TrpcError(TypedDict):
    """An error as tRPC's clients read it."""

    error: dict[str, Any]
