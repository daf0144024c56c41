"""``python -m app repartition``."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import click

from app.errors import RegistryError
from app.partitioning import Partitioning, read
from app.refusals import say_it_in_one_line
from app.repartition import steps
from app.settings import EXIT_USAGE, settings

#: Exit status if Ctrl-C ended it, as shells have it.
EXIT_INTERRUPTED = 130
#: It is done, and workers have not come back in time.
EXIT_UNFINISHED = 1

T = TypeVar("T")


@click.command()
@click.argument("partitions", type=click.IntRange(min=1, max=1000), required=False)
@click.option("--back", is_flag=True, help="Give up what another command has begun.")
def repartition(partitions: int | None, back: bool) -> None:
    """Give the registry more PARTITIONS while writes go on; without them, say how it stands.

    Each partition is split into as many others: of 4, there may be 8, 12, 16 … afterwards. The
    tables' rows are copied while workers go on. Then, for some seconds, workers refuse writes (503
    with Retry-After), apply what there is, and start anew by themselves. Positions, outcomes and
    topics' names stay. If anything fails before that, or it is interrupted, nothing has changed.

    Exit status: 0 done; 1 done, but workers have not come back within a minute; 2 refused or
    failed, and nothing has changed.
    """
    if partitions is not None and back:
        raise click.UsageError("give PARTITIONS or --back")
    if back:
        _back()
    elif partitions is None:
        _show(_run(read(settings())))
    else:
        _change(partitions)


def _show(now: Partitioning) -> None:
    times = f", repartitioned {now.generation} times" if now.generation else ""
    click.echo(f"{now.partitions} partitions{times}")
    if now.change is not None:
        click.echo(f"being changed to {now.change.partitions}: {now.change.step}")


def _back() -> None:
    given_up = _run(steps.give_back(settings()))
    click.echo("given up: nothing has changed" if given_up else "nothing was begun")


def _change(partitions: int) -> None:
    done = _run(steps.repartition(settings(), partitions, click.echo))
    click.echo(
        f"{done.before} -> {done.after} partitions in {done.seconds:.1f} s: {done.rows:,} rows "
        f"copied, new tables from {done.held_seconds:.1f} s after writes were held"
    )
    if not done.have_returned:
        click.echo("workers do not own all partitions yet; see their logs", err=True)
        raise SystemExit(EXIT_UNFINISHED)


def _run(work: Coroutine[Any, Any, T]) -> T:
    say_it_in_one_line()
    try:
        return asyncio.run(work)
    except RegistryError as error:
        click.echo(error, err=True)
        raise SystemExit(EXIT_USAGE) from None
    except KeyboardInterrupt:
        click.echo("interrupted: nothing has changed", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
