"""Standstills: notices that the process or its machine stood still for too long.

A server cannot see when bytes arrived in a socket. It can see that its loop did not run: what it
reads next may have come at any time before, and its client may have given up and tried again.
Whoever looks first after a standstill notices it, so that the order in which the loop runs timers
and reads sockets does not matter.
"""

import asyncio
import math

from mode import Service

from app.system.clocks import now

#: How often somebody looks while nothing happens.
LOOK_SECONDS = 0.1
#: So many times somebody has looked after a standstill before a request counts as new. Between two
#: looks the loop polls its sockets at least once. It needs one poll to accept a connection, and
#: one to four to read all that a socket's buffer holds.
LOOKS_TO_CATCH_UP = 6
#: The time of a request that is too old in any case.
TOO_OLD = -1.0


class Standstills(Service):
    """Tells which requests may be older than they seem."""

    def __init__(self, limit_seconds: float = math.inf) -> None:
        super().__init__()
        self.limit_seconds = limit_seconds
        self._looked_at = now()
        #: Looks until everything is read that waited in sockets during the last standstill.
        self._looks_left = 0
        #: What was read before may have waited for too long.
        self._fresh_since = 0.0

    async def on_start(self) -> None:
        """Begin to look; what waited in sockets before is not older than this process."""
        self._looked_at = now()
        self.add_future(self._look_often())

    def look(self) -> float:
        """Return the time, and notice a standstill that has just ended."""
        seen, self._looked_at = self._looked_at, now()
        if self._looked_at - seen > self.limit_seconds:
            self._looks_left = LOOKS_TO_CATCH_UP
            self._fresh_since = math.inf
        return self._looked_at

    def is_stale(self, read_at: float) -> bool:
        """Return whether a request may be too old whose first bytes were read at a time."""
        self.look()
        return read_at < self._fresh_since

    def time_of(self, read_at: float, since: float) -> float:
        """Return the time to go by for a request that is begun now.

        One that waits since too long behind others of its connection is too old in any case.
        """
        return TOO_OLD if self.look() - since > self.limit_seconds else read_at

    def catch_up(self) -> None:
        """Look; what is read from now on is new if it was looked often enough."""
        at = self.look()
        if self._looks_left:
            self._looks_left -= 1
            if not self._looks_left:
                self._fresh_since = at

    async def _look_often(self) -> None:
        while not self.should_stop:
            await asyncio.sleep(LOOK_SECONDS)
            self.catch_up()
