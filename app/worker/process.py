"""Prepares the process of a worker: open files, event loop, garbage collection."""

import asyncio
import faulthandler
import gc

from app.system.loop import Policy
from app.worker import descriptors

#: Objects that are made and not freed until Python looks for cycles among them; its own is 700.
GC_THRESHOLD = 100_000


def prepare() -> None:
    """Allow as many files as possible, and let event loops be uvloop's from now on.

    Call it before anything asks for a loop, as Faust's services do when they are made. If a signal
    ends the process, it says where: libraries that get no memory end so.
    """
    descriptors.allow_all()
    asyncio.set_event_loop_policy(Policy())
    faulthandler.enable(all_threads=False)


def collect_rarely() -> None:
    """Let Python look for cycles of garbage a hundred times less often than it would.

    What a batch makes, thousands of records and rows, is freed by reference counts; looking for
    cycles among them cost a quarter of the worker's time.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
