"""Counts users over all workers: each tells of its own partitions, exactly."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from app.domain.counts import Count, total
from app.domain.errors import NotReadyError
from app.query.every_partition import parts, stale_seconds
from app.query.routing import Routing
from tables.counts import UserCounts

#: Where another worker has its part.
COUNTS_PATH = "/counts"


@dataclass(frozen=True, slots=True)
class Counted:
    """The users of some partitions, by partition."""

    by_partition: Mapping[int, Count]
    #: For how long it may lack something, because the broker confirms nobody's partitions.
    stale_seconds: float = 0.0

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that were counted."""
        return frozenset(self.by_partition)

    @property
    def total(self) -> Count:
        """The users of all these partitions."""
        return total(self.by_partition.values())

    def members(self) -> dict[str, object]:
        """Return how many users there are, as members of JSON."""
        total = self.total
        members: dict[str, object] = {"users": total.users, "days": total.days}
        if total.since:
            members["since"] = total.since
        if self.stale_seconds:
            members["stale_seconds"] = round(self.stale_seconds, 3)
        return members

    def encode(self) -> bytes:
        """Return it as JSON bytes, for another worker."""
        by_partition = {
            str(number): [count.users, count.days, count.since]
            for number, count in self.by_partition.items()
        }
        return orjson.dumps({"counts": by_partition, "stale_seconds": self.stale_seconds})

    @classmethod
    def decode(cls, body: bytes) -> "Counted":
        """Return what another worker has encoded; raise `ValueError` if it is something else."""
        try:
            members = orjson.loads(body)
            counts = {int(number): Count(*count) for number, count in members["counts"].items()}
            return cls(counts, members["stale_seconds"])
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError("no counts") from error


class Counting:
    """The counts of the table ``users``."""

    def __init__(self, counts: UserCounts, routing: Routing) -> None:
        self._counts = counts
        self._routing = routing

    def here(self) -> Counted:
        """Return the counts of this worker's partitions."""
        by_partition = {
            number: count
            for number in self._routing.all_here()
            if (count := self._counts.of(number)) is not None
        }
        return Counted(by_partition, stale_seconds(self._routing, by_partition))

    async def all(self) -> Counted:
        """Return the counts of all partitions; raise `NotReadyError` if some cannot be told."""
        told = await parts(self._routing, self.here(), self._ask)
        by_partition = {number: one for part in told for number, one in part.by_partition.items()}
        return Counted(by_partition, max(part.stale_seconds for part in told))

    async def _ask(self, url: str) -> Counted | None:
        try:
            _, body = await self._routing.ask(url, COUNTS_PATH)
            return Counted.decode(body)
        except (NotReadyError, ValueError):
            return None
