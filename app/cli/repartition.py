"""``python -m app repartition``."""

import asyncio
from typing import NoReturn, TypeVar

import click

from app.cli.runner import EXIT_INTERRUPTED, end, run
from app.config.settings import EXIT_USAGE, settings
from app.domain.errors import RegistryError
from app.kafka.client_errors import say_it_in_one_line
from app.kafka.partitioning import Partitioning, read
from app.ops.repartition import steps
from app.ops.repartition.steps import Report, Stage

#: The registry has more partitions, or may have, and something is left to do.
EXIT_UNFINISHED = 1

_NOT_CHANGED = "interrupted: nothing has changed"
_LEFT = "run the same command again to finish"

T = TypeVar("T")


@click.command()
@click.argument("partitions", type=click.IntRange(min=1, max=1000), required=False)
@click.option("--back", is_flag=True, help="Give up the change of another command.")
def repartition(partitions: int | None, back: bool) -> None:
    """Give the registry more PARTITIONS; without them, show how many there are.

    Each partition is split into the same number of partitions: 4 become 8, 12, 16 … The command
    copies the rows of the tables while workers continue. Then, for some seconds, workers refuse
    writes (503 with Retry-After), apply the rest, and restart. Positions, outcomes and names of
    topics stay. A failure or an interruption before the restart changes nothing. After it, run the
    same command again to finish.

    Exit status: 0 done; 1 the registry has, or may have, more partitions, and something is left to
    do; 2 refused or failed, and nothing has changed.
    """
    if partitions is not None and back:
        raise click.UsageError("give PARTITIONS or --back")
    if back:
        _back()
    elif partitions is None:
        _show(run(read(settings()), _NOT_CHANGED))
    else:
        _change(partitions)


def _show(now: Partitioning) -> None:
    times = f", repartitioned {now.generation} times" if now.generation else ""
    click.echo(f"{now.partitions} partitions{times}")
    if now.change is not None:
        click.echo(f"being changed to {now.change.partitions}: {now.change.step}")


def _back() -> None:
    given_up = run(steps.give_back(settings()), _NOT_CHANGED)
    click.echo("given up: nothing has changed" if given_up else "nothing was begun")


def _change(partitions: int) -> None:
    say_it_in_one_line()
    report = Report()
    try:
        asyncio.run(steps.repartition(settings(), partitions, report, click.echo))
    except RegistryError as error:
        _ended_early(report, str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        _ended_early(report, "interrupted", EXIT_INTERRUPTED)
    click.echo(_summary(report))
    if not report.have_returned:
        click.echo(f"workers do not own all partitions yet, see their logs; {_LEFT}", err=True)
        raise SystemExit(EXIT_UNFINISHED)


def _summary(report: Report) -> str:
    if not report.held_seconds:
        return f"{report.before} -> {report.after} partitions: what was left is done"
    return (
        f"{report.before} -> {report.after} partitions in {report.seconds:.1f} s: "
        f"{report.rows:,} rows copied, new tables from {report.held_seconds:.1f} s after writes "
        "were held"
    )


def _ended_early(report: Report, cause: str, status: int) -> NoReturn:
    told = {
        Stage.BEFORE: cause if status == EXIT_USAGE else f"{cause}: nothing has changed",
        Stage.ASKED: f"{cause}; whether the registry has {report.after} partitions now is not "
        "known: python -m app repartition says",
        Stage.SWITCHED: f"{cause}; the registry has {report.after} partitions; {_LEFT}",
    }
    end(told[report.stage], status if report.stage is Stage.BEFORE else EXIT_UNFINISHED)
