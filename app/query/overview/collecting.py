"""Asks all workers for their state."""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from pydantic import ValidationError

from app.domain.errors import NotReadyError
from app.domain.records import User
from app.query.lookups import FindsUsers
from app.query.newest import NEWEST_USERS
from app.query.overview.numbers import Moment, WorkerState
from app.query.routing import Routing

#: Where a worker tells other workers of itself, and how long they wait for it.
HERE_PATH = "/overview?here=1"
TIMEOUT_SECONDS = 0.8


class TellsState(Protocol):
    """What the web view needs to know of the workers; tests may bring their own."""

    async def here(self) -> WorkerState:
        """Return the state of this worker."""
        ...

    async def moment(self) -> Moment:
        """Return what all workers tell now."""
        ...

    def workers(self) -> Sequence[str]:
        """Return the addresses of all workers; raise `NotReadyError` if they are not known."""
        ...


class Collecting:
    """Asks all workers for their state."""

    def __init__(
        self,
        routing: Routing,
        lookups: FindsUsers,
        state: Callable[[list[User]], WorkerState],
    ) -> None:
        self._routing = routing
        self._lookups = lookups
        self._state = state

    async def here(self) -> WorkerState:
        """Return the state of this worker."""
        newest = await self._lookups.newest(NEWEST_USERS, forwarded=True)
        return self._state(newest.users[:NEWEST_USERS])

    async def moment(self) -> Moment:
        """Return what all workers tell now."""
        others = sorted(self._routing.other_workers())
        told = await asyncio.gather(*map(self._ask, others))
        workers = [await self.here(), *(state for state in told if state is not None)]
        return Moment(
            monotonic(),
            sorted(workers, key=lambda worker: worker.url),
            [url for url, state in zip(others, told, strict=True) if state is None],
        )

    def workers(self) -> Sequence[str]:
        """Return the addresses of all workers; raise `NotReadyError` if they are not known."""
        return sorted(self._routing.all_workers())

    async def _ask(self, url: str) -> WorkerState | None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                _, body = await self._routing.ask(url, HERE_PATH)
            return WorkerState.model_validate_json(body)
        except (NotReadyError, TimeoutError, ValidationError):
            return None
