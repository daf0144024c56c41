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
    """Ways out where the registry stops because it cannot know: an operator decides.

    Workers must not run, nor a repartition or a backup. Each way out says what it will do, asks,
    and writes to its log who did it.

    Exit status: 0 done, or nothing is to be done; 2 refused, or it could not be done.
    """


@recover.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_yes
def changelog(folder: Path, yes: bool) -> None:
    """Write the changelogs anew from the stores in FOLDER, a worker's DATA_DIR.

    For a changelog that was deleted, or lost its end, while a store has all of it. What the
    changelog has beside that is deleted. A store that is behind its changelog is left alone.
    """
    work = partial(rebuild, settings(), folder, partial(_agrees, yes=yes))
    _do("changelog", work, folder=str(folder))


@recover.command()
@_yes
def gap(yes: bool) -> None:
    """Go on behind records that are not in their topics any more: they are lost.

    For `records … were deleted before they were applied`, `the topic was recreated`, `the log ends
    at …` and `a broker lost its end`. The offsets are named, here and in a record of the
    dead-letter topic. Restore the topic instead if you can.
    """
    _do("gap", partial(accept, settings(), partial(_agrees, yes=yes)))


@recover.command()
@click.argument("topic")
@click.argument("partition", type=int)
@click.argument("offset", type=int)
@click.option("--reason", required=True, help="Why: it is kept with the record.")
@_yes
def skip(topic: str, partition: int, offset: int, reason: str, yes: bool) -> None:
    """Move one record of user-registrations into the dead letters: it is never applied.

    For `record … deciding fails`, and a partition that rests because of one record. Only the next
    record to be applied is taken; what to say for TOPIC, PARTITION and OFFSET is in the log. It can
    be replayed later, once the registry can apply it.
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
