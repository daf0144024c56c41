"""Progress, as one method that is fair to all: the offsets that a group has committed.

Every engine commits only what stands in its store and in its acknowledged changelog, so a committed
record is an applied one. Each commits at intervals, most once a second: between commits nothing is
known, and so a rate is the slope of the line through the moments at which commits were seen. What
comes before the first (starting, joining) and after the last but one of a finished run (waiting for
the interval, not for work) does not count. What a virtual machine still compiles after its first
commit does count: short runs are unjust to it.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from bench.engines import Running
from bench.errors import PeerFailed

POLL_SECONDS = 0.03
FIRST_COMMIT_SECONDS = 90
#: A line through fewer moments says little.
FEWEST_COMMITS = 3


@dataclass(frozen=True, slots=True)
class Commit:
    """So many records were seen to be committed at a moment (`time.time`)."""

    at: float
    records: int


@dataclass(frozen=True, slots=True)
class Slope:
    """The line through commits: records a second, and from which moment to which."""

    per_second: float
    began: float
    ended: float
    records: int


class Committed(AbstractContextManager["Committed"]):
    """What a group has committed of some topics, together."""

    def __init__(self, brokers: str, group: str, partitions: int, *topics: str) -> None:
        self._partitions = [
            TopicPartition(topic, number) for topic in topics for number in range(partitions)
        ]
        self._records = 0
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": group,
                # Or it would wait for the end of each transaction that commits offsets.
                "isolation.level": "read_uncommitted",
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._consumer.close()

    def records(self) -> int:
        """Return how many records are committed."""
        # While the group's coordinator is loading, the last answer stands.
        with suppress(KafkaException):
            stored = self._consumer.committed(self._partitions, timeout=10)
            self._records = sum(max(partition.offset, 0) for partition in stored)
        return self._records


def follow(running: Running, committed: Committed, total: int, seconds: float) -> list[Commit]:
    """Return each commit that is seen until all is applied, or for a time from the first one."""
    commits: list[Commit] = []
    began = time.time()
    while not _is_over(commits, began, total, seconds):
        running.require_alive()
        seen = Commit(time.time(), committed.records())
        if seen.records > (commits[-1].records if commits else 0):
            commits.append(seen)
        time.sleep(POLL_SECONDS)
    if not commits:
        raise PeerFailed("nothing was committed", running.last_words())
    return commits


def _is_over(commits: Sequence[Commit], began: float, total: int, seconds: float) -> bool:
    if not commits:
        return time.time() - began > FIRST_COMMIT_SECONDS
    return commits[-1].records >= total or time.time() - commits[0].at > seconds


def slope(commits: Sequence[Commit], total: int) -> Slope:
    """Return the line through commits; raise `PeerFailed` where there are too few."""
    counted = commits
    if commits[-1].records >= total and len(commits) > FEWEST_COMMITS:
        counted = commits[:-1]
    if len(counted) < FEWEST_COMMITS:
        raise PeerFailed(f"{len(counted)} commits were seen: give it more users or more seconds")
    line = statistics.linear_regression([c.at for c in counted], [c.records for c in counted])
    records = counted[-1].records - counted[0].records
    return Slope(line.slope, counted[0].at, counted[-1].at, records)
