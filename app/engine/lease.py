"""The lease: how long this worker may believe that it owns its partitions.

A worker that was cut off, or stood still, does not know that others have taken over. But the broker
gives a member's partitions away only after the member was silent for a whole session. So what the
broker last confirmed holds for most of a session from the moment it was asked; after that this
worker tells nobody that something does not exist.
"""

import math
from collections.abc import Callable

from app.system.clocks import Moment

#: The share of a session for which a confirmation counts; the rest is for clocks that differ.
LEASE_SHARE = 0.75


class Lease:
    """What the broker last confirmed of this worker's membership."""

    def __init__(
        self, session_seconds: float = 10.0, clock: Callable[[], Moment] = Moment.now
    ) -> None:
        #: How long the broker waits for a silent member.
        self.session_seconds = session_seconds
        #: The clock that the lease goes by.
        self.now = clock
        self._confirmed = Moment(-math.inf, -math.inf)

    @property
    def holds(self) -> bool:
        """Whether no other worker can own this one's partitions."""
        return self._confirmed.passed(self.now()) < self.session_seconds * LEASE_SHARE

    @property
    def confirmed_at(self) -> float:
        """When the broker was asked what it confirmed last, in seconds of `clocks.now`."""
        return self._confirmed.at

    def renew(self, asked_at: Moment) -> None:
        """Count from when the broker was asked: it confirmed this worker's membership."""
        if asked_at.at >= self._confirmed.at:
            self._confirmed = asked_at
