"""Prepares the process of a worker: open files and event loop."""

import asyncio
import faulthandler

from app.system.loop import Policy
from app.worker import descriptors


def prepare() -> None:
    """Raise the limit of open files, and make uvloop the event loop.

    Call it before anything asks for a loop: Faust's services do so when they are made. If a fatal
    signal ends the process, it prints where. Libraries that get no memory end it so.
    """
    descriptors.allow_all()
    asyncio.set_event_loop_policy(Policy())
    faulthandler.enable(all_threads=False)
