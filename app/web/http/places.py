"""Places for those who follow something for long: so many in all, and of one client."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.domain.errors import OverloadedError, TooManyRequestsError


@dataclass(slots=True)
class Places:
    """Those who follow something now, by client; each costs the worker something all the time."""

    most: int
    most_of_client: int
    #: When a client that has too many may ask again.
    retry_seconds: float
    taken: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def take(self, client: str) -> Iterator[None]:
        """Take a place while the context lasts.

        Raises `OverloadedError` if there is none, `TooManyRequestsError` if the client has many.
        """
        if self.taken.total() >= self.most:
            raise OverloadedError(f"{self.most} others are following already")
        if self.taken[client] >= self.most_of_client:
            raise TooManyRequestsError(
                f"this client is following {self.most_of_client} times already", self.retry_seconds
            )
        self.taken[client] += 1
        try:
            yield
        finally:
            self.taken[client] -= 1
            self.taken += Counter()  # who follows no more is forgotten
