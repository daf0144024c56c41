"""The command ``user-registry``: all commands of an installed package, those of make among them."""

import click

from app.cli.main import COMMANDS, Commands, Place
from app.system.garbage import collect_rarely
from local.commands import OneLineErrors
from local.errors import SettingsError

HERE = {
    "run": Place("local.cli", "run", "Run Kafka and workers on this machine until Ctrl-C."),
    "stop": Place("local.cli", "stop", "Stop them."),
    "restart": Place("local.cli", "restart", "Restart the workers, one after the other."),
    "status": Place("local.cli", "status", "Tell what runs."),
}


class _Everything(OneLineErrors, Commands):
    """The commands of `app`, and those that run a registry on this machine."""

    places = COMMANDS | HERE

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; raise `SettingsError` if it needs what is not installed."""
        try:
            return super().get_command(ctx, cmd_name)
        except ModuleNotFoundError as error:
            if cmd_name not in HERE:
                raise
            raise SettingsError(
                f"{cmd_name} needs {error.name}: pip install 'user-registry[local]'"
            ) from None


@click.group(cls=_Everything, help="A write-intensive user registry on Faust and Kafka.")
@click.version_option(package_name="user-registry")
def main() -> None:
    """Run a command; settings come from the environment."""
    collect_rarely()
