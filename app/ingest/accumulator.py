"""The accumulator: records that wait for the broker, by partition, within limits. No I/O."""

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import chain, islice

from app.domain.errors import (
    BrokerUnavailableError,
    OutcomeOpenError,
    OutcomeUnknownError,
    OverloadedError,
    RecordTooLargeError,
    RegistryError,
)
from app.kafka.fast_records import ToWrite
from app.telemetry.metrics import (
    ACKNOWLEDGEMENT_SECONDS,
    WRITES,
    WRITES_ACKNOWLEDGED,
    WRITES_REFUSED,
)

#: What a record takes beside its key and value, about: in a batch, and in this process.
RECORD_OVERHEAD_BYTES = 100

Offsets = asyncio.Future[Sequence[int]]

#: How failed writes are counted.
_ANSWERS: Mapping[type[RegistryError], str] = {
    BrokerUnavailableError: "unavailable",
    OutcomeOpenError: "open",
    RecordTooLargeError: "too-large",
}


class BufferBudget:
    """How many records and bytes wait, and how many may."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._records_left = self._max_records = max_records
        self._bytes_left = self._max_bytes = max_bytes

    @property
    def is_used(self) -> bool:
        """Whether anything waits."""
        return self._records_left < self._max_records

    @property
    def used_records(self) -> int:
        """How many records wait."""
        return self._max_records - self._records_left

    @property
    def used_bytes(self) -> int:
        """What they take, about."""
        return self._max_bytes - self._bytes_left

    def take(self, groups: Iterable["Group"]) -> None:
        """Count groups in, all or none; raise `OverloadedError` if they do not fit."""
        records = size = 0
        for group in groups:
            records += len(group.records)
            size += group.size
        if records > self._records_left or size > self._bytes_left:
            WRITES_REFUSED.inc(records)
            raise OverloadedError("more writes wait for the broker than this worker may keep")
        self._records_left -= records
        self._bytes_left -= size

    def give_back(self, group: "Group") -> None:
        """Count out a group that waits no more."""
        self._records_left += len(group.records)
        self._bytes_left += group.size


class Group:
    """Records of one request for one partition, and what will hold their offsets."""

    __slots__ = ("_acknowledged", "offsets", "records", "sent", "since", "size")

    def __init__(self, records: Sequence[ToWrite], now: float, offsets: Offsets) -> None:
        self.records = records
        self.since = now
        sizes = [len(key or b"") + len(value or b"") for _, key, value, _ in records]
        self.size = RECORD_OVERHEAD_BYTES * len(records) + sum(sizes)
        #: How many of them are in batches that were handed over.
        self.sent = 0
        self.offsets = offsets
        self._acknowledged: list[int] = []

    @property
    def is_written_in_part(self) -> bool:
        """Whether some of them are durable."""
        return bool(self._acknowledged)

    def acknowledge(self, offsets: range) -> bool:
        """Note the offsets of the next records; return whether these were the last."""
        self._acknowledged += offsets
        if len(self._acknowledged) < len(self.records):
            return False
        if not self.offsets.done():
            self.offsets.set_result(self._acknowledged)
        return True

    def fail(self, error: RegistryError) -> None:
        """Tell why there are no offsets, unless it was told already."""
        if not self.offsets.done():
            WRITES.labels(_ANSWERS.get(type(error), "unknown")).inc(len(self.records))
            # A copy: each that is raised grows a traceback of its own.
            self.offsets.set_exception(copy(error))
            # Whoever asked may have gone.
            self.offsets.exception()


class PartitionBatcher:
    """The groups of one partition: those under way in one batch, and those behind it.

    A batch that is given up leaves its groups unfenced: nobody knows whether it will be written.
    Until the fence is there the lane is closed, and its groups are told nothing that is not true.
    """

    def __init__(self, partition: int, budget: BufferBudget) -> None:
        self.partition = partition
        self._budget = budget
        self._behind: deque[Group] = deque()
        self._under_way: list[tuple[Group, int]] = []
        self._unfenced: list[Group] = []
        #: Since when a batch is under way.
        self._sent_at: float | None = None
        #: Whether what was sent before may be written still: nothing is sent then.
        self.is_closed = False

    @property
    def is_under_way(self) -> bool:
        """Whether a batch is."""
        return self._sent_at is not None

    @property
    def waits(self) -> bool:
        """Whether there are records for a next batch, and it may be sent."""
        return bool(self._behind) and self._sent_at is None and not self.is_closed

    def offsets(self) -> Iterator[Offsets]:
        """Yield what those that wait here wait for."""
        groups = chain((group for group, _ in self._under_way), self._behind, self._unfenced)
        yield from (group.offsets for group in groups)

    def add(self, group: Group) -> None:
        """Let a group wait."""
        self._behind.append(group)

    def records(self) -> Iterator[ToWrite]:
        """Return the records that wait, in order."""
        return chain.from_iterable(islice(g.records, g.sent, None) for g in self._behind)

    def hand_over(self, count: int, now: float) -> None:
        """Take note that the first records that wait are in a batch that is under way now."""
        self._sent_at = now
        while count:
            group = self._behind[0]
            part = min(count, len(group.records) - group.sent)
            group.sent += part
            self._under_way.append((group, part))
            count -= part
            if group.sent == len(group.records):
                self._behind.popleft()

    def acknowledge(self, offset: int, now: float) -> None:
        """Take note that the batch under way is durable, its first record at an offset."""
        begin = offset
        for group, part in self._end_batch():
            if group.acknowledge(range(offset, offset + part)):
                self._budget.give_back(group)
                ACKNOWLEDGEMENT_SECONDS.observe(now - group.since)
            offset += part
        WRITES_ACKNOWLEDGED.inc(offset - begin)

    def fail(self, error: RegistryError) -> None:
        """Give the batch under way up, and what waits of the same groups."""
        for group in self._end_groups():
            self._tell(group, error)

    def fail_unwritten(self, why: str) -> None:
        """Do the same with a batch that certainly was not written."""
        for group in self._end_groups():
            self._tell(group, _unwritten(group, why))

    def close(self) -> None:
        """Give the batch under way up, which may be written still; send nothing until `open`."""
        self.is_closed = True
        self._unfenced += self._end_groups()

    def open(self, error: RegistryError) -> None:
        """Send again, and tell whose batch was given up what became of it."""
        self.is_closed = False
        unfenced, self._unfenced = self._unfenced, []
        for group in unfenced:
            self._tell(group, error)

    def _end_batch(self) -> list[tuple[Group, int]]:
        ended, self._under_way, self._sent_at = self._under_way, [], None
        return ended

    def _end_groups(self) -> list[Group]:
        groups = [group for group, _ in self._end_batch()]
        if groups and self._behind and self._behind[0] is groups[-1]:
            self._behind.popleft()
        return groups

    def is_stalled(self, now: float, seconds: float) -> bool:
        """Return whether a batch is under way for longer than it should be."""
        return self._sent_at is not None and now - self._sent_at > seconds

    def is_late(self, now: float, seconds: float) -> bool:
        """Return whether something waits for too long, and its batch had half of that time."""
        return self.is_stalled(now, seconds / 2) and now - self._under_way[0][0].since > seconds

    def drop_late(self, since: float) -> None:
        """Tell those that are in no batch, and wait since before a moment, that it is over."""
        if self._sent_at is None and self._behind and self._behind[0].since < since:
            # It may have been in batches before; the last of them is acknowledged.
            group = self._behind.popleft()
            self._tell(group, _unwritten(group, _TOO_LATE))
        self._drop(_TOO_LATE, since)

    def tell_open(self, since: float, why: str) -> None:
        """Tell those that wait for the fence, since before a moment, that it is not there yet."""
        waiting, self._unfenced = self._unfenced, []
        for group in waiting:
            if group.since < since:
                self._tell(group, OutcomeOpenError(why))
            else:
                self._unfenced.append(group)

    def give_up(self, why: str) -> None:
        """Give up all of which nothing was handed over."""
        self._drop(why, math.inf)

    def _drop(self, why: str, since: float) -> None:
        begun = self._behind.popleft() if self._behind and self._behind[0].sent else None
        while self._behind and self._behind[0].since < since:
            self._tell(self._behind.popleft(), BrokerUnavailableError(why))
        if begun is not None:
            self._behind.appendleft(begun)

    def _tell(self, group: Group, error: RegistryError) -> None:
        group.fail(error)
        self._budget.give_back(group)


_TOO_LATE = "no broker takes records in time"


def _unwritten(group: Group, why: str) -> RegistryError:
    """Return the error for a group of which nothing is under way."""
    if group.is_written_in_part:
        return OutcomeUnknownError(f"a part of the request is written: {why}")
    return BrokerUnavailableError(why)
