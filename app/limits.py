"""How many writes are taken in a second: of each client, and of all together; no I/O, no clock.

A rate allows a second's worth at once, and from then on as many as it says, on average: the generic
cell rate algorithm, which needs one number a client (ITU-T I.371; what others call a leaky bucket).
"""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from app.errors import OverloadedError, TooManyRequestsError

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

    def use(self, amount: int, per_second: float, now: float) -> None:
        """Use so much of it. One large amount is allowed, and delays what follows."""
        self._used_until = max(self._used_until, now) + amount / per_second


class Limits:
    """The rate of all writes of a worker, and that of each client; None is no limit."""

    def __init__(
        self,
        per_second: float | None = None,
        client_per_second: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._per_second = per_second
        self._client_per_second = client_per_second
        self._clock = clock
        self._all = Rate()
        self._clients: OrderedDict[str, Rate] = OrderedDict()

    @property
    def tell_clients_apart(self) -> bool:
        """Whether it matters which client writes."""
        return self._client_per_second is not None

    def admit(self, records: int, client: str, own_rate: float | None = None) -> None:
        """Count writes in, all or none; a client may have a rate of its own.

        Raises `TooManyRequestsError` if the client, or `OverloadedError` if the worker is over its
        rate; both say when to try again.
        """
        now = self._clock()
        client_per_second = own_rate or self._client_per_second
        if client_per_second is not None:
            rate = self._rate_of(client)
            if wait := rate.wait(now):
                raise TooManyRequestsError("this client writes more than it may", wait)
        if self._per_second is not None:
            if wait := self._all.wait(now):
                raise OverloadedError("more is written than this worker may take", wait)
            self._all.use(records, self._per_second, now)
        if client_per_second is not None:
            rate.use(records, client_per_second, now)

    def wait(self, client: str, own_rate: float | None = None) -> float:
        """Return the seconds until a client's writes are admitted again; 0 if they are now."""
        now = self._clock()
        is_limited = own_rate is not None or self.tell_clients_apart
        of_client = self._rate_of(client).wait(now) if is_limited else 0.0
        return max(of_client, self._all.wait(now))

    def _rate_of(self, client: str) -> Rate:
        rate = self._clients.setdefault(client, Rate())
        self._clients.move_to_end(client)
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
        return rate
