"""The lease: how long this worker may take itself for the owner of what it was assigned.

A worker that was cut off, or stood still, does not know that others have taken over. But the broker
gives a member's partitions away only after the member was silent for a whole session. So what the
broker last confirmed holds for most of a session from the moment it was asked; after that this
worker tells nobody that something does not exist.
"""

import math
from time import monotonic

#: The share of a session for which a confirmation counts; the rest is for clocks that differ.
LEASE_SHARE = 0.75


class Lease:
    """What the broker last confirmed of this worker's membership; times are monotonic seconds."""

    def __init__(self) -> None:
        #: How long the broker waits for a silent member.
        self.session_seconds = 10.0
        #: When the broker was asked what it confirmed last.
        self.confirmed_at = -math.inf

    @property
    def holds(self) -> bool:
        """Whether no other worker can own this one's partitions."""
        return monotonic() - self.confirmed_at < self.session_seconds * LEASE_SHARE

    @staticmethod
    def now() -> float:
        """Return the time of the clock that the lease goes by, in seconds."""
        return monotonic()

    def renew(self, asked_at: float) -> None:
        """Count from when the broker was asked: it confirmed this worker's membership."""
        self.confirmed_at = max(self.confirmed_at, asked_at)
