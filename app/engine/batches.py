"""Batches for the agents: the records of one topic that one cycle applies.

The schema of the topics passes them on unchanged, because the decisions decode many records
together.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import faust
from faust.types import TP

from app.domain.consumed_records import ConsumedRecord
from app.engine.partitions import Changes

#: How long deciding may hold the event loop at once. The loop also answers lookups and takes
#: writes.
SLICE_SECONDS = 0.002
#: The smallest slice, and the first slice of a worker.
MIN_SLICE_RECORDS, FIRST_SLICE_RECORDS = 16, 64
MAX_SLICE_RECORDS = 1_000
#: How many times as long as a slice other tasks may run before the next slice.
OTHERS_SHARE = 4
#: A round of the loop without work takes less time than this.
IDLE_SECONDS = 0.0002


class Slice(NamedTuple):
    """Some records of one partition, and where their results go."""

    partition: int
    records: Sequence[ConsumedRecord]
    changes: Changes


@dataclass(slots=True)
class SliceSize:
    """How many records fit into a slice, learned from earlier slices."""

    records: int = FIRST_SLICE_RECORDS

    def learn(self, records: int, seconds: float) -> None:
        """Learn from the time that a slice took."""
        if records >= MIN_SLICE_RECORDS:
            fitting = int(records * SLICE_SECONDS / max(seconds, 1e-6))
            self.records = min(max(fitting, MIN_SLICE_RECORDS), MAX_SLICE_RECORDS)


async def give_way(seconds: float) -> None:
    """Let other tasks run after a slice, for longer than the slice took if they have work.

    Under too much load, waiting requests are served first, and applying still has its share.
    Without other work a round of the loop takes no time, and applying continues at once.
    """
    left = seconds * OTHERS_SHARE
    while left > 0:
        began = time.perf_counter()
        await asyncio.sleep(0)
        others = time.perf_counter() - began
        if others < IDLE_SECONDS:
            return
        left -= others


@dataclass(slots=True)
class Batch:
    """The records of one topic that one cycle applies, by partition.

    An agent decides them inside ``async with batch``. An error in that block fails the cycle, and
    not the agent.
    """

    topic: str
    parts: Sequence[Slice]
    size: SliceSize
    #: The slice that the agent decides now, or decided last.
    deciding: Slice = field(init=False)
    #: Done when the agent has decided all of it, or has failed.
    decided: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def __post_init__(self) -> None:
        self.deciding = self.parts[0]

    @property
    def tp(self) -> TP:
        """One of the partitions. Faust wants one for each event."""
        return TP(self.topic, self.parts[0].partition)

    async def slices(self) -> AsyncIterator[Slice]:
        """Yield the records in slices, in their order. Other tasks run between two slices."""
        for partition, records, changes in self.parts:
            begin = 0
            while begin < len(records):
                some = records[begin : begin + self.size.records]
                begin += len(some)
                began = time.perf_counter()
                self.deciding = Slice(partition, some, changes)
                yield self.deciding
                seconds = time.perf_counter() - began
                self.size.learn(len(some), seconds)
                await give_way(seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self.decided.done():
            # The cycle was cancelled, perhaps because of a rebalance. Nobody waits for the result.
            return isinstance(error, Exception)
        if error is None:
            self.decided.set_result(None)
            return False
        self.decided.set_exception(error if isinstance(error, Exception) else Abandoned())
        # Mark the error as seen: after a rebalance nobody waits for it.
        self.decided.exception()
        return isinstance(error, Exception)


class Abandoned(Exception):  # noqa: N818  # it never leaves the engine
    """The agent was stopped while it decided a batch."""


class BatchSchema(faust.Schema[None, Batch]):
    """Passes a batch on unchanged. The agent decodes its records together."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        """Return no key: each record has its own."""

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:
        """Return the batch."""
        return message.value
