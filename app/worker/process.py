"""Prepares the process of a worker: open files, event loop, garbage collection."""

import asyncio
import faulthandler
import gc

from app.system.loop import Policy
from app.worker import descriptors

#: How many objects may be made and not freed before Python looks for cycles. Its default is 700.
GC_THRESHOLD = 100_000


def prepare() -> None:
    """Raise the limit of open files, and make uvloop the event loop.

    Call it before anything asks for a loop: Faust's services do so when they are made. If a fatal
    signal ends the process, it prints where. Libraries that get no memory end it so.
    """
    descriptors.allow_all()
    asyncio.set_event_loop_policy(Policy())
    faulthandler.enable(all_threads=False)


def collect_rarely() -> None:
    """Let Python look for cycles of garbage a hundred times less often.

    A batch makes thousands of records and rows, which reference counts free. Looking for cycles
    among them took a quarter of the worker's CPU time.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
