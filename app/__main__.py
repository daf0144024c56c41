"""The command line: ``python -m app worker`` and ``python -m app topics``."""

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click

from app import topics as topic_specs
from app.errors import RegistryError
from app.preflight import checked
from app.settings import EXIT_USAGE, settings


@click.group(help="A write-intensive user registry on Faust and Kafka.")
def main() -> None:
    """Run a command; settings come from the environment (see README)."""


@main.command()
def topics() -> None:
    """Create the topics that are missing, and check the partitions of the others."""
    with _told_in_one_line():
        asyncio.run(topic_specs.ensure(settings()))
    for spec in topic_specs.declare(settings()).all():
        click.echo(f"{spec.name}: {spec.partitions} partitions")


@main.command()
def worker() -> None:
    """Start a worker: the agents, their tables and the web view."""
    with ExitStack() as held:
        with _told_in_one_line():
            held.enter_context(checked(settings()))
            asyncio.run(topic_specs.ensure(settings()))
        import faust

        from app.main import app

        faust.Worker(app, loglevel=settings().log_level).execute_from_commandline()


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    # aiokafka logs each address that does not answer; the one line below says it all.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        yield
    except RegistryError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None


if __name__ == "__main__":
    main()
