"""``python -m app dead-letters list``, ``show`` and ``replay``."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click
import orjson

from app.access.audit import CommandAudit
from app.cli.runner import run
from app.config.settings import Settings, settings
from app.dead_letters import printing
from app.dead_letters.letters import Letter, Name
from app.dead_letters.listing import Where, by_cause, chosen, members
from app.dead_letters.reading import LetterTopic
from app.dead_letters.replay import ReplayResult
from app.dead_letters.replaying import Replaying, replaying, why_not_open
from app.domain.errors import InvalidPositionError
from app.domain.positions import Position
from app.kafka.partition_reader import reader
from app.kafka.partitioning import current_partitioning
from app.kafka.topics import declare

#: Exit status of a replay that refused letters, and of a command that Ctrl-C ended.
EXIT_REFUSED = 1
EXIT_INTERRUPTED = 130

#: How many letters `list` shows on a terminal without --limit.
LISTED = 20

T = TypeVar("T")


class _WhereType(click.ParamType):
    """A condition ``NAME=VALUE``, as `Where` reads it."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the condition, or fail with what is wrong."""
        try:
            return Where.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _PositionType(click.ParamType):
    """A position token."""

    name = "POSITION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the position, or fail with what is wrong."""
        try:
            return Position.parse(value)
        except InvalidPositionError as error:
            self.fail(f"{value!r} is {error}", param, ctx)


_where = click.option(
    "--where",
    type=_WhereType(),
    multiple=True,
    help="Only letters with this cause, id, partition, topic or key (by). All must hold.",
)


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show and replay records that could not be applied.

    Exit status: 0 done; 1 a letter was refused, or is not there; 2 it could not be done.
    """


@dead_letters.command("list")
@_where
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"List at most the newest N; all are counted. Unset: {LISTED}, all with --json.",
)
@click.option("--ids", is_flag=True, help="Show ids, too. They may be personal data.")
@click.option("--marked", is_flag=True, help="List replayed and erased letters instead.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each letter.")
def list_letters(
    where: tuple[Where, ...], limit: int | None, ids: bool, marked: bool, as_json: bool
) -> None:
    """List dead letters: the causes, and the newest letters."""
    letters = chosen(run(_read(settings())).values(), where, marked=marked)
    shown = letters[: LISTED if limit is None and not as_json else limit]
    if as_json:
        for letter in shown:
            click.echo(orjson.dumps(members(letter, with_id=ids)))
        return
    if not letters:
        click.echo("No dead letters.")
        return
    console = printing.console()
    console.print(printing.causes_table(by_cause(letters), marked=marked))
    console.print()
    console.print(printing.letters_table(shown, with_ids=ids, marked=marked))
    if len(shown) < len(letters):
        click.echo(f"\nThe newest {len(shown):,} of {len(letters):,}; --limit shows more.")


async def _read(wanted: Settings) -> Mapping[Name, Letter]:
    async with _letters(wanted) as letters:
        return await letters.letters()


@dead_letters.command()
@click.argument("position", type=_PositionType())
def show(position: Position) -> None:
    """Show a whole dead letter with its original. It may hold personal data."""
    found = run(_find(settings(), position))
    if not found:
        click.echo(f"There is no dead letter of {position.token()}.", err=True)
        raise SystemExit(EXIT_REFUSED)
    click.echo("\n\n".join(found))


async def _find(wanted: Settings, position: Position) -> list[str]:
    async with _letters(wanted) as letters:
        # The same position can exist in several topics.
        found = [each for each in (await letters.letters()).values() if each.position == position]
        originals = await letters.originals(found)
    return ["\n".join(printing.sheet(each, originals.get(each.name))) for each in found]


@dead_letters.command()
@click.argument("positions", type=_PositionType(), nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All open letters.")
@_where
@click.option(
    "--force",
    is_flag=True,
    help="Even what still cannot be read, and what overtakes a later record of its id.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
def replay(
    positions: tuple[Position, ...],
    everything: bool,
    where: tuple[Where, ...],
    force: bool,
    dry_run: bool,
) -> None:
    """Send originals to their topic again, and mark their letters, in one transaction.

    Refused, unless by --force, where the original still cannot be read, and where its id has a
    later record.
    """
    if sum(map(bool, (positions, everything, where))) != 1:
        raise click.UsageError("Say which letters: POSITION..., --all or --where.")
    refused = run(_replay(settings(), positions, where, force=force, dry_run=dry_run))
    raise SystemExit(EXIT_REFUSED if refused else 0)


async def _replay(
    wanted: Settings,
    positions: Sequence[Position],
    where: Sequence[Where],
    *,
    force: bool,
    dry_run: bool,
) -> int:
    """Replay letters and print what became of each; return how many were refused."""
    audit = None if dry_run else CommandAudit(wanted)
    async with replaying(wanted, force=force, dry_run=dry_run) as opened:
        missing = 0
        if positions:
            selected, missing = _at(positions, opened)
        else:
            selected = chosen(opened.found.values(), where)
        return missing + await _tell(opened.replay.run(selected), audit)


def _at(positions: Sequence[Position], opened: Replaying) -> tuple[list[Letter], int]:
    """Return the open letters at positions, and how many positions have none; print these."""
    selected: dict[Position, Letter] = {}
    missing = 0
    for position in dict.fromkeys(positions):
        letters = opened.at(position)
        still_open = [letter for letter in letters if letter.is_open]
        if still_open:
            # The first topic in the flow counts; only its letters can be replayed.
            selected[position] = still_open[0]
        else:
            missing += 1
            why = printing.escaped(why_not_open(letters))
            click.echo(f"{position.token()} refused: {why}")
    return list(selected.values()), missing


async def _tell(replaying: AsyncIterator[ReplayResult], audit: CommandAudit | None) -> int:
    """Print and audit what became of each letter; return how many were refused."""
    done = refused = 0
    try:
        async for told in replaying:
            click.echo(printing.outcome(told))
            if audit is not None:
                _note(audit, told)
            refused += told.refused is not None
            done += told.refused is None
    finally:
        # The marks are part of the transaction: a replayed letter is not replayed again.
        would = "would be " if audit is None else ""
        click.echo(f"{done:,} {would}replayed, {refused:,} refused")
    return refused


def _note(audit: CommandAudit, told: ReplayResult) -> None:
    outcome = "done" if told.refused is None else "failed"
    position, replayed_as = told.letter.position.token(), told.replayed_as
    audit.note(
        *("replay", outcome, told.letter.id),
        position=position,
        replayed_as=replayed_as and replayed_as.token(),
    )


@asynccontextmanager
async def _letters(wanted: Settings) -> AsyncIterator[LetterTopic]:
    topics = declare(await current_partitioning(wanted))
    async with reader(wanted.kafka, (topics.dead_letter,)) as reading:
        yield LetterTopic(reading, topics.dead_letter)
