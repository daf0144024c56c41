"""The command line: ``python -m app worker`` and ``python -m app topics``."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable

import click

from app import topics as topic_specs
from app.errors import RegistryError
from app.settings import EXIT_USAGE, Settings, settings


@click.group(help="A write-intensive user registry on Faust and Kafka.")
def main() -> None:
    """Run a command; settings come from the environment (see README)."""


@main.command()
def topics() -> None:
    """Create the topics that are missing, and check the partitions of the others."""
    _or_exit(topic_specs.ensure)
    for spec in topic_specs.declare(settings()).all():
        click.echo(f"{spec.name}: {spec.partitions} partitions")


@main.command()
def worker() -> None:
    """Start a worker: the agents, their tables and the web view."""
    _or_exit(topic_specs.ensure)
    import faust

    from app.main import app

    faust.Worker(app, loglevel=settings().log_level).execute_from_commandline()


def _or_exit(command: Callable[[Settings], Awaitable[None]]) -> None:
    # aiokafka logs each address that does not answer; the one line below says it all.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_await(command(settings())))
    except RegistryError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None


async def _await(work: Awaitable[None]) -> None:
    await work


if __name__ == "__main__":
    main()
