"""Graceful stop: not ready first, then no writes, then the end."""

import asyncio
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.02


class Shutdown:
    """The steps before a worker leaves its group."""

    def __init__(
        self,
        grace_seconds: float,
        finish_seconds: float,
        refuse_writes: Callable[[], None],
        is_busy: Callable[[], bool],
    ) -> None:
        self._grace = grace_seconds
        self._finish = finish_seconds
        self._refuse_writes = refuse_writes
        self._is_busy = is_busy
        #: Set at the beginning. From then on the worker is not ready.
        self.is_under_way = False
        #: Called then.
        self.begins: Callable[[], None] = lambda: None

    def skip(self) -> None:
        """Skip the steps: writes are refused already, and the worker comes back at once."""
        self._begin()
        self._refuse_writes()

    def _begin(self) -> None:
        self.is_under_way = True
        self.begins()

    async def wind_down(self) -> None:
        """Become not ready, then refuse writes, then finish those that are under way."""
        self._begin()
        log.info("stopping: not ready any more", grace_seconds=self._grace)
        await asyncio.sleep(self._grace)
        self._refuse_writes()
        deadline = asyncio.get_running_loop().time() + self._finish
        while self._is_busy() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        log.info("stopping: writes are refused")
