"""The terminal's foreground: taken, so that Ctrl-C reaches this process and not the make above.

GNU make dies of the SIGINT that a terminal sends to the whole foreground process group, and exits
with 130 whatever its recipe says. A process group of our own gets the signal alone; then make sees
an ordinary exit with status 0. Shells with job control do the same for every job.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def own_foreground() -> Iterator[None]:
    """Hold the foreground of the terminal on standard input, if there is one and it is ours."""
    if not in_foreground():
        yield
        return
    terminal, former = sys.stdin.fileno(), os.getpgrp()
    if former != os.getpid():  # a group's leader has a group of its own already
        os.setpgid(0, 0)
    # Ctrl-Z would stop this process, and nobody above waits for that: it does nothing instead.
    # A handler, as an ignored signal would be ignored by the children too.
    former_action = signal.signal(signal.SIGTSTP, lambda *_: None)
    give(terminal, os.getpgrp())
    try:
        yield
    finally:
        if in_foreground():  # a shell may have taken the terminal back
            give(terminal, former)
        signal.signal(signal.SIGTSTP, former_action)


def in_foreground() -> bool:
    """Tell whether standard input is a terminal whose foreground group is this process's."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):  # no terminal, or no standard input at all
        return False


def give(terminal: int, group: int) -> None:
    """Make a process group the terminal's foreground group."""
    # Whoever does this from the background, as at the end, would be stopped by SIGTTOU.
    former = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        with suppress(OSError):  # the terminal may be gone
            os.tcsetpgrp(terminal, group)
    finally:
        signal.signal(signal.SIGTTOU, former)
