"""The lease: how long this worker may believe that it owns its partitions.

A worker that was cut off or stopped does not know whether others have taken over. But the broker
reassigns a member's partitions only after the member was silent for a whole session. So a
confirmation of the broker is valid for most of a session, from the moment of the question. After
that, this worker never answers that something does not exist.
"""

import math
from collections.abc import Callable

from app.system.clocks import Moment

#: The share of a session for which a confirmation is valid. The rest allows for clocks that differ.
LEASE_SHARE = 0.75


class Lease:
    """The last confirmation of this worker's membership."""

    def __init__(
        self, session_seconds: float = 10.0, clock: Callable[[], Moment] = Moment.now
    ) -> None:
        #: How long the broker waits for a silent member.
        self.session_seconds = session_seconds
        #: The clock of the lease.
        self.now = clock
        self._confirmed = Moment(-math.inf, -math.inf)

    @property
    def holds(self) -> bool:
        """Whether no other worker can own this worker's partitions."""
        return self._confirmed.passed(self.now()) < self.session_seconds * LEASE_SHARE

    @property
    def confirmed_at(self) -> float:
        """When the last confirmed question was asked, in seconds of `clocks.now`."""
        return self._confirmed.at

    def renew(self, asked_at: Moment) -> None:
        """Note that the broker has confirmed the membership. The lease begins with the question."""
        if asked_at.at >= self._confirmed.at:
            self._confirmed = asked_at
