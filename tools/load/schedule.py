"""When requests are due: on a fixed schedule (open model), or as fast as possible (closed).

In the open model, as with real users, a request is due whether or not earlier ones are answered.
Waiting requests are a number, and not a queue.
"""

from dataclasses import dataclass
from math import inf
from typing import Protocol

#: A request that begins later than this after it was due is late.
LATE_SECONDS = 0.005


class Schedule(Protocol):
    """Says when requests are due."""

    def next(self, now: float) -> float | None:
        """Return when the next request was due, and advance to the one behind it; None: not yet."""

    def next_at(self) -> float:
        """Return when the next request is due."""

    def due_between(self, begin: float, end: float) -> float:
        """Return how many requests are due in a span of time."""

    def not_begun(self, now: float) -> int:
        """Return how many requests are due and were not begun."""


class FullSpeed:
    """The next request is due as soon as it can be sent."""

    def next(self, now: float) -> float | None:
        """Return now."""
        return now

    def next_at(self) -> float:
        """Return never: only an answer allows another request."""
        return inf

    def due_between(self, _begin: float, _end: float) -> float:
        """Return 0."""
        return 0.0

    def not_begun(self, _now: float) -> int:
        """Return 0."""
        return 0


@dataclass(slots=True)
class FixedRate:
    """A fixed number of requests a second is due, from a moment on."""

    start: float
    per_second: float
    _begun: int = 0

    def next(self, now: float) -> float | None:
        """Return when the next request was due, or None."""
        due = self.next_at()
        if due > now:
            return None
        self._begun += 1
        return due

    def next_at(self) -> float:
        """Return when the next request is due."""
        return self.start + self._begun / self.per_second

    def due_between(self, begin: float, end: float) -> float:
        """Return how many requests are due in a span of time, on average."""
        return max(end - begin, 0.0) * self.per_second

    def not_begun(self, now: float) -> int:
        """Return how many are due and were not begun."""
        return max(int((now - self.start) * self.per_second) + 1 - self._begun, 0)
