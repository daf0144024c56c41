"""Lag of the owned partitions: in records, and in seconds.

The ends are the high watermarks, which come with every fetch. So records behind an open transaction
count as waiting. The ends are checked once a second. The lag in seconds is the time since an end
beyond the applied offset was first seen. Record timestamps would be more exact after a start, but
producers may set them to anything.
"""

from collections.abc import Mapping
from typing import NamedTuple

from faust.types import TP
from mode import Service

from app.engine.assignment import TableManager
from app.system.clocks import now

LOOK_SECONDS = 1.0

#: How many ends of a partition are remembered. Above that, every second one is dropped.
MAX_ENDS = 600


class Lag(NamedTuple):
    """How far a partition is behind."""

    records: int
    seconds: float


class Ends:
    """The ends of a partition's log, and when each was first seen."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def see(self, end: int, at: float) -> None:
        """Note where the log ends."""
        if not self._seen or end > self._seen[-1][0]:
            self._seen.append((end, at))
        if len(self._seen) > MAX_ENDS:
            del self._seen[1:-1:2]

    def lag(self, applied: int, now: float) -> Lag:
        """Return how far behind something is that has applied so much."""
        while self._seen and self._seen[0][0] <= applied:
            del self._seen[0]
        if not self._seen:
            return Lag(0, 0.0)
        return Lag(self._seen[-1][0] - applied, now - self._seen[0][1])


class Lags(Service):
    """The lag of each source partition that this worker owns."""

    def __init__(self, tables: TableManager) -> None:
        super().__init__()
        self._tables = tables
        self._ends: dict[TP, Ends] = {}

    def of_all(self) -> Mapping[TP, Lag]:
        """Return the lag of each partition whose end is known."""
        at, applied = now(), self._applied()
        return {tp: self._ends[tp].lag(applied[tp], at) for tp in applied if tp in self._ends}

    def _applied(self) -> Mapping[TP, int]:
        return self._tables.partitions.applied()

    @Service.task
    async def _look(self) -> None:
        while not self.should_stop:
            await self.sleep(LOOK_SECONDS)
            # If a partition has no leader, keep its last ends: they get older, and the lag shows
            # it.
            self._ends = {tp: self._ends.get(tp) or Ends() for tp in self._applied()}
            at = now()
            for tp, end in self._tables.ends().items():
                if tp in self._ends:
                    self._ends[tp].see(end, at)
