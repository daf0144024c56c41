"""The command line: ``python -m app worker`` and the commands beside it."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from app.cli.backup import backup, restore
from app.cli.dead_letters import dead_letters
from app.cli.doctor import doctor
from app.cli.keys import keys
from app.cli.recover import recover
from app.cli.repartition import repartition
from app.cli.topics import topics
from app.cli.transfer import export_users, import_users
from app.config.settings import EXIT_USAGE, settings
from app.domain.errors import RegistryError
from app.kafka.client_errors import say_it_in_one_line
from app.system.files import private
from app.worker.preflight import checked
from tools.load.commands import load

#: Exit status of a command that Ctrl-C ended, as shells have it.
EXIT_INTERRUPTED = 130


@click.group(help="A write-intensive user registry on Faust and Kafka.")
@click.pass_context
def main(context: click.Context) -> None:
    """Run a command; settings come from the environment (see README)."""
    context.with_resource(private())


main.add_command(backup)
main.add_command(dead_letters)
main.add_command(doctor)
main.add_command(export_users)
main.add_command(import_users)
main.add_command(load)
main.add_command(keys)
main.add_command(recover)
main.add_command(repartition)
main.add_command(restore)
main.add_command(topics)


@main.command()
def worker() -> None:
    """Start a worker: the agents, their tables and the web view."""
    with ExitStack() as held:
        with _told_in_one_line():
            held.enter_context(checked(settings()))
            import faust

            from app.main import worker_of_this_process

            worker = worker_of_this_process()
        try:
            faust.Worker(worker.app, loglevel=settings().log_level).execute_from_commandline()
        finally:
            worker.restart.end()


@main.command()
@click.option("--ids", is_flag=True, help="Name the users that differ: ids may be personal.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="List at most so many differences of each kind; all are counted.",
)
@click.option(
    "--stores",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Compare the stores below a worker's DATA_DIR, too; that worker must not run. May be "
    "given more than once.",
)
def verify(ids: bool, limit: int, stores: tuple[Path, ...]) -> None:
    """Check that the tables are what the topics make of them.

    Folds user-registrations, email-claims and email-decisions anew, and compares with everything
    that must have come of them, each up to where it is applied: the rows of users and emails,
    claims and verdicts, outcomes, dead letters, records that were moved. Writes nothing; workers
    may run.

    Exit status: 0 no difference; 1 differences; 2 only part could be checked, because the
    beginning of a topic is gone, or nothing at all. A list of differences says where records
    stand: topic, partition:offset.
    """
    import traceback

    from app.ops.verify import Findings
    from app.ops.verify import verify as verify_registry

    findings = Findings(limit, with_ids=ids)
    try:
        with _told_in_one_line():
            asyncio.run(verify_registry(settings(), findings, stores))
    except KeyboardInterrupt:
        # click's own status for this is 1, which says that there are differences.
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Exception as error:
        # So is Python's. The text of an error may be personal, where it was raised is not.
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(where.filename).name}, line {where.lineno}"
        print(f"nothing is verified: unexpected {type(error).__name__} in {at}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
    for line in findings.lines():
        click.echo(line)
    raise SystemExit(findings.status)


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    say_it_in_one_line()
    try:
        yield
    except RegistryError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None


if __name__ == "__main__":
    main()
