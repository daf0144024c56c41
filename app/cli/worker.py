"""``python -m app worker``."""

import asyncio
from contextlib import ExitStack

import click
import faust

from app.cli.runner import one_line
from app.config.settings import settings
from app.main import worker_of_this_process
from app.worker.preflight import checked

#: How long tasks that were cancelled may take to end.
CANCELLED_SECONDS = 1.0


class _Program(faust.Worker):
    """Faust's worker, but for the second that it waits in the end, whatever is left to do."""

    async def _sentinel_task(self) -> None:
        """Wait for the tasks that are left; all were cancelled."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=CANCELLED_SECONDS)


@click.command()
def worker() -> None:
    """Start a worker: the agents, their tables and the web view."""
    with ExitStack() as held:
        with one_line():
            held.enter_context(checked(settings()))
            built = worker_of_this_process()
        try:
            _Program(built.app, loglevel=settings().log_level).execute_from_commandline()
        finally:
            built.restart.end()
