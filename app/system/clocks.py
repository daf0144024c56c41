"""Clocks that continue while the process or its machine is stopped."""

import time
from typing import NamedTuple, Self

#: A clock that continues while the process is stopped and while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Return the seconds since the machine started, sleep included."""
    return time.clock_gettime(_CLOCK)


class Moment(NamedTuple):
    """A moment by two clocks, in seconds: `now`, and the wall clock.

    A virtual machine that its host suspends notices it only by the wall clock, once that is set.
    """

    at: float
    wall: float

    @classmethod
    def now(cls) -> Self:
        """Return this moment."""
        return cls(now(), time.time())

    def passed(self, until: "Moment") -> float:
        """Return for how long this moment may be over, in seconds.

        If the wall clock was set meanwhile, forward or back, that counts, too.
        """
        return max(until.at - self.at, abs(until.wall - self.wall))
