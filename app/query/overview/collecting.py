"""Asks all workers for their state."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from app.domain.errors import NotReadyError
from app.domain.records import User
from app.query.lookups import FindsUsers
from app.query.newest import NEWEST_USERS
from app.query.overview.history import History, decode, ticks
from app.query.overview.numbers import Moment, WorkerState
from app.query.routing import Routing

#: Where a worker tells other workers of itself, and how long they wait for it.
HERE_PATH = "/overview?here=1"
HISTORY_PATH = "/overview?history=1"
TIMEOUT_SECONDS = 0.8

T = TypeVar("T")


class TellsState(Protocol):
    """What the web view needs to know of the workers; tests may bring their own."""

    async def here(self) -> WorkerState:
        """Return the state of this worker."""
        ...

    async def moment(self) -> Moment:
        """Return what all workers tell now."""
        ...

    async def history(self) -> list[dict[str, Any]]:
        """Return what all workers did in each of the last seconds, the oldest first."""
        ...

    def history_here(self) -> bytes:
        """Return what this worker remembers of it, as JSON for another worker."""
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
        history: History,
    ) -> None:
        self._routing = routing
        self._lookups = lookups
        self._state = state
        self._history = history

    async def here(self) -> WorkerState:
        """Return the state of this worker."""
        newest = await self._lookups.newest(NEWEST_USERS, forwarded=True)
        return self._state(newest.users[:NEWEST_USERS])

    async def moment(self) -> Moment:
        """Return what all workers tell now."""
        others = sorted(self._routing.other_workers())
        told = await self._ask_all(others, HERE_PATH, WorkerState.model_validate_json)
        workers = [await self.here(), *(state for state in told if state is not None)]
        return Moment(
            monotonic(),
            sorted(workers, key=lambda worker: worker.url),
            [url for url, state in zip(others, told, strict=True) if state is None],
        )

    def workers(self) -> Sequence[str]:
        """Return the addresses of all workers; raise `NotReadyError` if they are not known."""
        return sorted(self._routing.all_workers())

    async def history(self) -> list[dict[str, Any]]:
        """Return what all workers did in each of the last seconds, the oldest first."""
        told = await self._ask_all(self._routing.other_workers(), HISTORY_PATH, decode)
        return list(ticks([self._history.seconds, *filter(None, told)]))

    def history_here(self) -> bytes:
        """Return what this worker remembers of it, as JSON for another worker."""
        return self._history.encode()

    async def _ask_all(
        self, urls: Iterable[str], path: str, read: Callable[[bytes], T]
    ) -> list[T | None]:
        """Return what workers answer, None for those that do not in time."""
        return await asyncio.gather(*(self._ask(url, path, read) for url in urls))

    async def _ask(self, url: str, path: str, read: Callable[[bytes], T]) -> T | None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                _, body = await self._routing.ask(url, path)
            return read(body)
        except (NotReadyError, TimeoutError, ValidationError):
            return None
