"""Rate limits: of each client, and of all together. No I/O, no clock.

A rate allows a second's worth at once, and from then on as many as it says, on average: the generic
cell rate algorithm, which needs one number a client (ITU-T I.371; what others call a leaky bucket).
"""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from app.domain.errors import OverloadedError, TooManyRequestsError

#: How much of a rate may come at once, in seconds of it.
BURST_SECONDS = 1.0
#: Clients that are remembered; beyond it, the one that was heard of longest ago is forgotten.
MAX_CLIENTS = 10_000


class Rate:
    """What one source has used of a rate."""

    __slots__ = ("_used_until",)

    def __init__(self) -> None:
        self._used_until = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until more is allowed; 0 if it is now."""
        return max(self._used_until - BURST_SECONDS - now, 0.0)

    def used_seconds(self, now: float) -> float:
        """Return how much is used of what may come at once, in seconds of the rate."""
        return max(self._used_until - now, 0.0)

    def use(self, amount: int, per_second: float, now: float) -> None:
        """Use so much of it. One large amount is allowed, and delays what follows."""
        self._used_until = max(self._used_until, now) + amount / per_second


class Standing(NamedTuple):
    """What a client is told of its rate: how much may come, how much is left, until it is whole."""

    per_second: float
    left: int
    whole_in_seconds: float


class Limits:
    """The rate of all writes, or reads, of a worker, and that of each client; None is no limit."""

    def __init__(
        self,
        per_second: float | None = None,
        client_per_second: float | None = None,
        clock: Callable[[], float] = monotonic,
        *,
        are_reads: bool = False,
    ) -> None:
        self._is_done, self.name = ("read", "reads") if are_reads else ("written", "writes")
        self._per_second = per_second
        self._client_per_second = client_per_second
        self._clock = clock
        self._all = Rate()
        self._clients: OrderedDict[str, Rate] = OrderedDict()

    @property
    def tell_clients_apart(self) -> bool:
        """Whether it matters which client it is."""
        return self._client_per_second is not None

    @property
    def are_set(self) -> bool:
        """Whether there is any."""
        return self.tell_clients_apart or self._per_second is not None

    def admit(self, amount: int, client: str, own_rate: float | None = None) -> None:
        """Count so many in, all or none; a client may have a rate of its own.

        Raises `TooManyRequestsError` if the client, or `OverloadedError` if the worker is over its
        rate; both say when to try again.
        """
        now = self._clock()
        client_per_second = own_rate or self._client_per_second
        if client_per_second is not None:
            rate = self._rate_of(client)
            if wait := rate.wait(now):
                raise TooManyRequestsError(
                    f"this client has {self._is_done} more than it may", wait
                )
        if self._per_second is not None:
            if wait := self._all.wait(now):
                raise OverloadedError(f"more is {self._is_done} than this worker may take", wait)
            self._all.use(amount, self._per_second, now)
        if client_per_second is not None:
            rate.use(amount, client_per_second, now)

    def wait(self, client: str, own_rate: float | None = None) -> float:
        """Return the seconds until more of a client is admitted; 0 if it is now."""
        now = self._clock()
        is_limited = own_rate is not None or self.tell_clients_apart
        of_client = self._rate_of(client).wait(now) if is_limited else 0.0
        return max(of_client, self._all.wait(now))

    def standing(self, client: str, own_rate: float | None = None) -> Standing | None:
        """Return how a client stands with its rate; None if it has none."""
        per_second = own_rate or self._client_per_second
        if per_second is None:
            return None
        used = self._rate_of(client).used_seconds(self._clock())
        return Standing(per_second, int(max(BURST_SECONDS - used, 0.0) * per_second), used)

    def _rate_of(self, client: str) -> Rate:
        rate = self._clients.setdefault(client, Rate())
        self._clients.move_to_end(client)
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
        return rate
