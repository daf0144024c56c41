"""``python -m app worker``."""

from contextlib import ExitStack

import click

from app.cli.runner import one_line
from app.config.settings import settings
from app.worker.preflight import checked


@click.command()
def worker() -> None:
    """Start a worker: the agents, their tables and the web view."""
    with ExitStack() as held:
        with one_line():
            held.enter_context(checked(settings()))
            # Importing Faust is slow, and other commands do not need it.
            import faust

            from app.main import worker_of_this_process

            built = worker_of_this_process()
        try:
            faust.Worker(built.app, loglevel=settings().log_level).execute_from_commandline()
        finally:
            built.restart.end()
