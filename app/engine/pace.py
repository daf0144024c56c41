"""How much of the event loop applying may take while clients wait for it.

A write is acknowledged once it is in the topic, and the topic keeps it until it is applied; a
client that gets no answer keeps nothing. So when the loop is late and writes wait, applying rests
between its batches, which grow meanwhile and cost less a record. It never stops.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: How late the loop may be on average, before applying begins to rest, and when it rests most.
EASY_LAG_SECONDS, FULL_LAG_SECONDS = 0.0005, 0.0015
#: The least share of the loop's time that applying takes.
LEAST_SHARE = 0.03
#: What a transaction costs beside deciding, about: a dozen turns of the loop, in aiokafka.
TRANSACTION_SECONDS = 0.003
#: No rest between two batches of a worker is longer.
MAX_REST_SECONDS = 0.5
#: What deciding may take of the loop at once: it answers lookups, and moves the transactions of all
#: partitions on, each of which needs half a dozen turns of the loop. The second: while writes wait.
SLICE_SECONDS, SLICE_SECONDS_UNDER_LOAD = 0.010, 0.002
#: How often it is looked how late the loop is, and how much the last look counts.
LOOK_SECONDS, LOOK_WEIGHT = 0.01, 0.2


class Pace:
    """Lets the partitions of a worker begin their batches, with rests if others need the loop."""

    def __init__(self) -> None:
        self._writes_wait: Callable[[], bool] = lambda: False
        self._lag = 0.0
        self._due = 0.0

    def give_way(self, writes_wait: Callable[[], bool]) -> None:
        """Rest while this tells that writes wait, and the loop is late."""
        self._writes_wait = writes_wait

    async def watch(self) -> None:
        """Look again and again how late the loop is."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(LOOK_SECONDS)
            self.note(time.perf_counter() - began - LOOK_SECONDS)

    def note(self, late_seconds: float) -> None:
        """Take note of how late the loop was just now."""
        self._lag += (late_seconds - self._lag) * LOOK_WEIGHT

    @property
    def slice_seconds(self) -> float:
        """How long deciding may hold the loop at once."""
        return SLICE_SECONDS_UNDER_LOAD if self._writes_wait() else SLICE_SECONDS

    @property
    def share(self) -> float:
        """The share of the loop's time that applying may take now."""
        if not self._writes_wait():
            return 1.0
        strain = (self._lag - EASY_LAG_SECONDS) / (FULL_LAG_SECONDS - EASY_LAG_SECONDS)
        return max(1.0 - strain, LEAST_SHARE) if strain > 0 else 1.0

    async def turn(self) -> None:
        """Wait until a batch may begin."""
        while (rest := self._due - time.perf_counter()) > 0:
            await asyncio.sleep(min(rest, MAX_REST_SECONDS))
        self._spend(TRANSACTION_SECONDS)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time that is spent in here."""
        began = time.perf_counter()
        yield
        self._spend(time.perf_counter() - began)

    def _spend(self, seconds: float) -> None:
        rest = min(seconds * (1 / self.share - 1), MAX_REST_SECONDS)
        if rest > 0:
            self._due = max(self._due, time.perf_counter()) + rest
