"""``python -m app``: all commands."""

import click

from app.cli.backup import backup, restore
from app.cli.dead_letters import dead_letters
from app.cli.doctor import doctor
from app.cli.keys import keys
from app.cli.recover import recover
from app.cli.repartition import repartition
from app.cli.topics import topics
from app.cli.transfer import export_users, import_users
from app.cli.verify import verify
from app.cli.worker import worker
from app.system.files import private
from tools.load.commands import load


@click.group(help="A write-intensive user registry on Faust and Kafka.")
@click.pass_context
def main(context: click.Context) -> None:
    """Run a command; settings come from the environment (see docs/reference/settings.md)."""
    context.with_resource(private())


for command in (
    *(worker, topics, keys, doctor, load),
    *(verify, dead_letters, recover, repartition),
    *(backup, restore, export_users, import_users),
):
    main.add_command(command)
