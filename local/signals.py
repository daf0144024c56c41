"""The signals that ask a program to end: as an interruption, held back, or ignored."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Have all signals that ask to end do what Ctrl-C does in Python: raise `KeyboardInterrupt`."""
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        # nohup's wish is respected.
        if (number, former[number]) != (signal.SIGHUP, signal.SIG_IGN):
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Have nothing interrupt from here on."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back signals that ask to end, so that no process is started without being recorded.

    Handlers, unlike a signal mask, are not inherited by what is started in the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs signal handlers in the main thread only
        return
    received: list[int] = []
    former = {n: signal.signal(n, lambda number, _: received.append(number)) for n in STOP_SIGNALS}
    try:
        yield
    finally:
        for held, handler in former.items():
            signal.signal(held, handler)
        for number in received:
            signal.raise_signal(number)
