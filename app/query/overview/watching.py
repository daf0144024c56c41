"""One task collects once a second for all readers, and rests while there are none.

What a watcher is told is always the newest: one that is slow misses some, and nothing queues.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import structlog

from app.domain.errors import NotReadyError, Unavailable

log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0

T = TypeVar("T")


class Watching(Generic[T]):
    """Tells all watchers the same: what came of two moments, one after the other."""

    def __init__(
        self,
        collect: Callable[[], Awaitable[T]],
        tell: Callable[[T, T], bytes],
        every_seconds: float | None = None,
    ) -> None:
        self._collect = collect
        self._tell = tell
        self._every = TICK_SECONDS if every_seconds is None else every_seconds
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        #: What is told next; None while nobody watches, and once the worker stops.
        self._next: asyncio.Future[bytes] | None = None
        self._is_stopped = False

    @property
    def is_collecting(self) -> bool:
        """Whether anybody watches."""
        return self._task is not None

    @contextmanager
    def watch(self) -> Iterator[AsyncIterator[bytes]]:
        """Watch while the context lasts."""
        if self._is_stopped:
            raise NotReadyError(Unavailable.STOPPING)
        self._watchers += 1
        self._begin()
        try:
            yield self._ticks()
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._end()

    def stop(self) -> None:
        """End what everybody watches, for good."""
        self._is_stopped = True
        self._end()

    async def _ticks(self) -> AsyncIterator[bytes]:
        """Yield what is told, until the worker stops."""
        while self._next is not None:
            following = self._next
            await asyncio.wait([following])
            if following.cancelled():
                return
            yield following.result()

    def _begin(self) -> None:
        if self._task is None:
            self._next = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._tell_all())

    def _end(self) -> None:
        task, self._task = self._task, None
        following, self._next = self._next, None
        if task is not None and following is not None:
            task.cancel()
            following.cancel()

    async def _tell_all(self) -> None:
        before: T | None = None
        while True:
            try:
                now = await self._collect()
                if before is not None:
                    self._publish(self._tell(now, before))
                before = now
            except Exception:
                # Whoever watches waits for the next one.
                log.exception("the overview cannot be told")
            await asyncio.sleep(self._every)

    def _publish(self, told: bytes) -> None:
        current, self._next = self._next, asyncio.get_running_loop().create_future()
        if current is not None:
            current.set_result(told)
