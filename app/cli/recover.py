"""``python -m app recover``."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from faust.types import TP

from app.cli.audited import audited
from app.cli.runner import one_line
from app.config.settings import settings
from app.ops.recover.changelog import rebuild
from app.ops.recover.gap import accept
from app.ops.recover.skip import skip as skip_record

_yes = click.option("--yes", is_flag=True, help="Do it without asking.")


@click.group()
def recover() -> None:
    """Repair a registry that stops because an operator must decide.

    Workers must not run, nor a repartition or a backup. Each command says what it will do, asks,
    and logs who did it.

    Exit status: 0 done, or there is nothing to do; 2 refused or failed.
    """


@recover.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_yes
def changelog(folder: Path, yes: bool) -> None:
    """Write the changelogs again from the stores in FOLDER, a worker's DATA_DIR.

    Use it if a changelog was deleted, or lost its end, and a store has all rows. Rows of the
    changelog that the store lacks are deleted. A store that is behind its changelog is not used.
    """
    work = partial(rebuild, settings(), folder, partial(_agrees, yes=yes))
    _do("changelog", work, folder=str(folder))


@recover.command()
@_yes
def gap(yes: bool) -> None:
    """Continue behind records that are gone from their topics. They are lost.

    Use it for `records … were deleted before they were applied`, `the topic was recreated`, `the
    log ends at …` and `a broker lost its end`. The command prints the lost offsets, and writes them
    to the dead-letter topic. If you can, restore the topic instead.
    """
    _do("gap", partial(accept, settings(), partial(_agrees, yes=yes)))


@recover.command()
@click.argument("topic")
@click.argument("partition", type=int)
@click.argument("offset", type=int)
@click.option("--reason", required=True, help="The reason. It is kept with the record.")
@_yes
def skip(topic: str, partition: int, offset: int, reason: str, yes: bool) -> None:
    """Make one record of user-registrations a dead letter. It is not applied.

    Use it for `record … deciding fails`, and for a partition that rests because of one record. Only
    the next record to apply can be skipped. The log has TOPIC, PARTITION and OFFSET. Replay the
    letter when the registry can apply it.
    """
    place = TP(topic, partition)
    agrees = partial(_agrees, yes=yes)
    work = partial(skip_record, settings(), place, offset, reason, agrees)
    _do("skip", work, topic=topic, partition=partition, offset=offset)


def _do(
    what: str, work: Callable[[], Coroutine[Any, Any, Iterable[str]]], **members: object
) -> None:
    """Run what an operator has decided, and write to the audit log who decided it."""
    with one_line(), audited(settings(), f"recover {what}", **members):
        for line in asyncio.run(work()):
            click.echo(line)


def _agrees(lines: Sequence[str], yes: bool) -> bool:
    for line in lines:
        click.echo(line)
    if yes:
        return True
    click.echo("Type yes to do it: ", err=True, nl=False)
    return sys.stdin.readline().strip() == "yes"
