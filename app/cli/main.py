"""``python -m app``: all commands. Each is imported once it is asked for, as imports take time."""

from importlib import import_module
from typing import NamedTuple

import click

from app.system.files import private


class Place(NamedTuple):
    """Where a command is, and what it does in a few words: `--help` imports none."""

    module: str
    function: str
    summary: str


COMMANDS = {
    "worker": Place("app.cli.worker", "worker", "Start a worker: agents, tables and web view."),
    "topics": Place("app.cli.topics", "topics", "Show or apply topic changes."),
    "keys": Place("app.cli.keys", "keys", "Create, list and revoke access keys."),
    "doctor": Place("app.cli.doctor", "doctor", "Check what a worker needs."),
    "load": Place("tools.load.commands", "load", "Send registrations, and measure."),
    "verify": Place("app.cli.verify", "verify", "Compare the tables with the topics."),
    "dead-letters": Place(
        "app.cli.dead_letters", "dead_letters", "List, show and replay dead letters."
    ),
    "recover": Place("app.cli.recover", "recover", "Repair what an operator must decide on."),
    "repartition": Place("app.cli.repartition", "repartition", "Add partitions."),
    "backup": Place("app.cli.backup", "backup", "Save the whole registry to a folder."),
    "restore": Place("app.cli.backup", "restore", "Restore the registry from a folder."),
    "export": Place("app.cli.transfer", "export_users", "Write all users to a file."),
    "import": Place("app.cli.transfer", "import_users", "Register the users in a file."),
}


class Commands(click.Group):
    """The commands, none of which is imported for another one."""

    places = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None if there is none of that name."""
        if cmd_name not in self.places:
            return None
        place = self.places[cmd_name]
        command: click.Command = getattr(import_module(place.module), place.function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing them."""
        with formatter.section("Commands"):
            names = self.list_commands(ctx)
            formatter.write_dl([(name, self.places[name].summary) for name in names])


@click.group(cls=Commands, help="A write-intensive user registry on Faust and Kafka.")
@click.pass_context
def main(context: click.Context) -> None:
    """Run a command; settings come from the environment (see docs/reference/settings.md)."""
    context.with_resource(private())
