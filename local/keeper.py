"""Keeping a service running: when it ends it is started again, later and later if it must be."""

import time
from collections.abc import Callable
from typing import Protocol

from local.console import say
from local.errors import LocalError

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
#: A service that ran for so long was healthy: the next delay is the first one again.
HEALTHY_AFTER_SECONDS = 60.0


class Service(Protocol):
    """What can be kept running: a worker, or the broker."""

    @property
    def name(self) -> str:
        """Its name in what the user reads."""

    def launch(self) -> object:
        """Start it; raises `LocalError`."""

    def ending(self) -> str | None:
        """Return how it ended, as words; None while it runs."""


class Keeper:
    """Watches one service; `look` is called again and again, and never waits."""

    def __init__(self, service: Service, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._delay = FIRST_DELAY_SECONDS
        self._started = clock()
        self._due: float | None = None

    def look(self) -> None:
        """Notice that the service has ended, or start it again once its delay is over."""
        if self._due is not None:
            self._start_when_due(self._due)
        elif how := self._service.ending():
            self._plan(how)

    def _plan(self, how: str) -> None:
        if self._clock() - self._started >= HEALTHY_AFTER_SECONDS:
            self._delay = FIRST_DELAY_SECONDS
        say(f"{self._service.name} ended ({how}): starting it again in {self._delay:g} s")
        self._due = self._clock() + self._delay
        self._delay = min(2 * self._delay, LONGEST_DELAY_SECONDS)

    def _start_when_due(self, due: float) -> None:
        if self._clock() < due:
            return
        self._due = None
        self._started = self._clock()
        try:
            self._service.launch()
        except LocalError as error:
            self._plan(str(error))
