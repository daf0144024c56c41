"""``python -m app topics plan`` and ``topics apply``."""

import click
import orjson

from app.cli.runner import run
from app.config.settings import EXIT_USAGE, Settings, settings
from app.kafka.topics.admin import apply, connected, plan
from app.kafka.topics.declaration import declare
from app.kafka.topics.planning import Action, Step

#: Exit status of a plan: there is something to do.
EXIT_DIFFERENCES = 1

_as_json = click.option("--json", "as_json", is_flag=True, help="Print the steps as JSON.")


@click.group(invoke_without_command=True)
@click.pass_context
def topics(ctx: click.Context) -> None:
    """Show or apply topic changes. Without a command, apply them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(apply_plan, as_json=False)


@topics.command("plan")
@_as_json
def show_plan(as_json: bool) -> None:
    """Show the changes that make the topics as the settings want them. Change nothing.

    Exit status: 0 no change; 1 changes; 2 the changes would be refused, or are unknown.
    """
    planned = run(_planned(settings()))
    _print(planned, as_json)
    if any(step.action is Action.REFUSE for step in planned):
        raise SystemExit(EXIT_USAGE)
    raise SystemExit(EXIT_DIFFERENCES if planned else 0)


@topics.command("apply")
@_as_json
def apply_plan(as_json: bool) -> None:
    """Make the topics as the settings want them: all changes, or none if one is refused.

    Creates topics, changes settings, and begins to move replicas, which Kafka then continues.
    Never changes the number of partitions.

    Exit status: 0 done; 2 refused, or the brokers cannot be reached.
    """
    _print(run(_applied(settings())), as_json)
    if not as_json:
        click.echo(f"{len(declare(settings()).all())} topics are as they should be")


def _print(planned: list[Step], as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps([step.members() for step in planned]))
        return
    for step in planned:
        click.echo(step.line())


async def _planned(wanted: Settings) -> list[Step]:
    async with connected(wanted) as admin:
        return await plan(admin, wanted)


async def _applied(wanted: Settings) -> list[Step]:
    async with connected(wanted) as admin:
        planned = await plan(admin, wanted)
        await apply(admin, planned)
        return planned
