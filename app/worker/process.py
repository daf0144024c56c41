"""Prepares the process of a worker: open files and event loop."""

import asyncio
import faulthandler

from app.system.loop import Policy
from app.worker import descriptors


def prepare() -> None:
    """Allow as many files as possible, and let event loops be uvloop's from now on.

    Call it before anything asks for a loop, as Faust's services do when they are made. If a signal
    ends the process, it says where: libraries that get no memory end so.
    """
    descriptors.allow_all()
    asyncio.set_event_loop_policy(Policy())
    faulthandler.enable(all_threads=False)
