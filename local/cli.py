"""The commands that the Makefile calls: run, stop, restart, status."""

import click

from local import settings
from local.broker import nodes_in
from local.commands import OneLineErrors
from local.console import say
from local.folder import DataFolder
from local.processes import stop as stop_process
from local.rolling import restart_workers
from local.supervisor import Supervisor
from local.takeover import SUPERVISOR_GRACE_SECONDS, stop_workers

EXIT_NOT_RUNNING = 1


@click.group(cls=OneLineErrors)
def local() -> None:
    """Run the registry on this machine: Kafka and the workers."""


@local.command()
def run() -> None:
    """Run everything until Ctrl-C."""
    Supervisor(settings.load()).run()


@local.command()
def stop() -> None:
    """Stop what runs on the data folder, and what a killed run left."""
    folder = DataFolder(settings.data_dir())
    supervisor = folder.supervisor.find()
    if supervisor:
        stop_process(supervisor, SUPERVISOR_GRACE_SECONDS)
    workers = stop_workers(folder)
    brokers = [node.stop() for node in nodes_in(folder.kafka)]
    say("Stopped." if supervisor or workers or any(brokers) else "Not running.")


@local.command()
@click.pass_context
def restart(ctx: click.Context) -> None:
    """Restart the workers, one after the other: the others take what comes meanwhile."""
    wanted = settings.load()
    folder = DataFolder(wanted.data_dir)
    if not folder.supervisor.find():
        say("Not running.")
        ctx.exit(EXIT_NOT_RUNNING)
    restart_workers(folder, wanted)
    say("Restarted.")


@local.command()
@click.pass_context
def status(ctx: click.Context) -> None:
    """Tell what runs on the data folder: exit status 0 if a supervisor does, 1 if not."""
    folder = DataFolder(settings.data_dir())
    for line in parts(folder):
        say(line)
    if not folder.supervisor.find():
        say(f"not running: data in {folder.path}")
        ctx.exit(EXIT_NOT_RUNNING)


def parts(folder: DataFolder) -> list[str]:
    """Return a line for each process that runs on a data folder."""
    records = {"supervisor": folder.supervisor.read()}
    nodes = nodes_in(folder.kafka)
    for number, node in enumerate(nodes, start=1):
        records["broker" if len(nodes) == 1 else f"broker {number}"] = node.status()
    records |= {file.path.stem: file.read() for file in folder.worker_records()}
    return [
        f"{name} running: process {record.pid}, port {record.port}"
        for name, record in records.items()
        if record and record.find()
    ]
