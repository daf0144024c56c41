"""``python -m app``: all commands. Each is imported once it is asked for, as imports take time."""

from importlib import import_module

import click

from app.system.files import private

#: By the name of each command, where it is.
COMMANDS = {
    "worker": "app.cli.worker:worker",
    "topics": "app.cli.topics:topics",
    "keys": "app.cli.keys:keys",
    "doctor": "app.cli.doctor:doctor",
    "load": "tools.load.commands:load",
    "verify": "app.cli.verify:verify",
    "dead-letters": "app.cli.dead_letters:dead_letters",
    "recover": "app.cli.recover:recover",
    "repartition": "app.cli.repartition:repartition",
    "backup": "app.cli.backup:backup",
    "restore": "app.cli.backup:restore",
    "export": "app.cli.transfer:export_users",
    "import": "app.cli.transfer:import_users",
}


class _Commands(click.Group):
    """The commands, none of which is imported for another one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Commands, help="A write-intensive user registry on Faust and Kafka.")
@click.pass_context
def main(context: click.Context) -> None:
    """Run a command; settings come from the environment (see docs/reference/settings.md)."""
    context.with_resource(private())
