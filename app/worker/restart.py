"""Restarts a worker in its own process. Its sockets stay open meanwhile.

What it listens on is handed to the program that takes this one's place: who connects in between
waits, and is not refused.
"""

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterable

import structlog

from app.system.handed_sockets import hand_over

log = structlog.get_logger(__name__)

#: Above these, copies are out of the way until the others take their places.
_ASIDE = 100


class Restart:
    """Ends a worker gracefully, and lets it begin again."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        #: Returns the file descriptors that this worker listens on, and their names.
        self.listening: Callable[[], Iterable[tuple[int, str]]] = tuple
        self._kept: list[tuple[int, str]] = []
        self.is_wanted = False

    def begin(self) -> None:
        """Stop, as if somebody had asked for it."""
        if self.is_wanted:
            return
        self.is_wanted = True
        log.info("this worker starts anew")
        self._kept = [
            (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ASIDE), name) for fd, name in self.listening()
        ]
        self._begin()
        os.kill(os.getpid(), signal.SIGTERM)

    def follow_signals(self) -> None:
        """Let a signal that comes meanwhile end the worker for good."""
        if self.is_wanted:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._give_up)

    def _give_up(self) -> None:
        log.info("this worker ends, and does not start anew")
        self.is_wanted = False

    def end(self) -> None:
        """Let the same program take this one's place, if that is wanted; does not return then."""
        if not self.is_wanted:
            return
        os.execve(sys.executable, sys.orig_argv, os.environ | hand_over(self._kept))
