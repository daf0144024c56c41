"""Restarts a worker in its own process. Its sockets stay open meanwhile.

The new program inherits the listening sockets, as systemd passes sockets to a service
(sd_listen_fds(3)). A client that connects meanwhile waits, and is not refused.
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

#: Copies get numbers from here on, so that they are not overwritten.
_ASIDE = 100


class Restart:
    """Ends a worker gracefully, and starts it again."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        #: Returns the file descriptors that this worker listens on, and their names.
        self.listening: Callable[[], Iterable[tuple[int, str]]] = tuple
        self._kept: list[tuple[int, str]] = []
        self.is_wanted = False

    def begin(self) -> None:
        """Stop the worker, as a signal would."""
        if self.is_wanted:
            return
        self.is_wanted = True
        log.info("this worker restarts")
        self._kept = [
            (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ASIDE), name) for fd, name in self.listening()
        ]
        self._begin()
        os.kill(os.getpid(), signal.SIGTERM)

    def follow_signals(self) -> None:
        """If a signal comes meanwhile, end the worker for good."""
        if self.is_wanted:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._give_up)

    def _give_up(self) -> None:
        log.info("this worker ends, and does not restart")
        self.is_wanted = False

    def end(self) -> None:
        """Replace this process by the same program, if a restart was asked for.

        Then it does not return.
        """
        if not self.is_wanted:
            return
        os.execve(sys.executable, sys.orig_argv, os.environ | hand_over(self._kept))
