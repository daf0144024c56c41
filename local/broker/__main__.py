"""The broker manager as a command: ``python -m local.broker start|run|stop|kill|status``."""

import time
from contextlib import suppress
from pathlib import Path

import click

from app.config.values import reachable
from local.broker.cluster import Cluster, nodes_in
from local.broker.node import DEFAULT_PORT, POLL_SECONDS, Broker
from local.commands import OneLineErrors
from local.console import say
from local.errors import BrokerError, DataFolderError
from local.signals import signals_interrupt

EXIT_NOT_RUNNING = 1


def _folder(_context: click.Context, _option: click.Parameter, path: Path) -> Path:
    """Return the folder with the home that ``~`` stands for, as the settings take it."""
    try:
        return reachable(path)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_folder,
    required=True,
    help="Kafka's own folder: storage, settings, logs.",
)


class Property(click.ParamType):
    """A server property on the command line: ``name=value``."""

    name = "name=value"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return name and value."""
        name, equals, setting = value.partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not name=value", param, ctx)
        return name, setting


port_option = click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True
)
property_option = click.option(
    "--property", "properties", type=Property(), multiple=True, help="Of the server."
)


brokers_option = click.option(
    "--brokers",
    type=click.IntRange(1, 9),
    default=1,
    show_default=True,
    help="Nodes; three of them keep three replicas of everything.",
)
node_option = click.option("--node", type=click.IntRange(1), help="Only this one of several nodes.")


@click.group(cls=OneLineErrors)
def broker() -> None:
    """Run Kafka on this machine, one node or several, in the background."""


@broker.command()
@data_dir_option
@port_option
@brokers_option
@node_option
@property_option
def start(
    data_dir: Path,
    port: int,
    brokers: int,
    node: int | None,
    properties: tuple[tuple[str, str], ...],
) -> None:
    """Start what does not run, and return once it answers; port 0 is a free one."""
    if node is None:
        word = "started" if _kafka(data_dir, port, brokers, properties).start() else "running"
    else:
        word = "started" if _chosen(data_dir, node)[0].start() else "running"
    for each in _chosen(data_dir, node):
        say(f"{_name(each)} {'already running' if word == 'running' else word}: {describe(each)}")


@broker.command()
@data_dir_option
@port_option
@brokers_option
@property_option
def run(data_dir: Path, port: int, brokers: int, properties: tuple[tuple[str, str], ...]) -> None:
    """Run in the foreground until a signal asks to end, for process managers."""
    kafka = _kafka(data_dir, port, brokers, properties)
    with signals_interrupt(), suppress(KeyboardInterrupt), kafka:
        nodes = [kafka] if isinstance(kafka, Broker) else kafka.nodes
        for each in nodes:
            say(f"{_name(each)} runs: {describe(each)}")
        while True:
            for each in nodes:
                if how := each.ending():
                    raise BrokerError(f"{_name(each)} ended ({how}): see {each.log.file}")
            time.sleep(POLL_SECONDS)


@broker.command()
@data_dir_option
@node_option
def stop(data_dir: Path, node: int | None) -> None:
    """Stop all nodes, or one."""
    for each in _chosen(data_dir, node):
        say(f"{_name(each)} {'stopped' if each.stop() else 'not running'}")


@broker.command()
@data_dir_option
@node_option
def kill(data_dir: Path, node: int | None) -> None:
    """End all nodes, or one, at once, as a crash would."""
    for each in _chosen(data_dir, node):
        each.kill()


@broker.command()
@data_dir_option
@node_option
@click.pass_context
def status(ctx: click.Context, data_dir: Path, node: int | None) -> None:
    """Tell what runs: exit status 0 if all nodes do, 1 if not."""
    missing = False
    for each in _chosen(data_dir, node):
        runs = each.status() is not None
        missing |= not runs
        told = f"running: {describe(each)}" if runs else f"not running: data in {each.data_dir}"
        say(f"{_name(each)} {told}")
    if missing:
        ctx.exit(EXIT_NOT_RUNNING)


def _kafka(
    data_dir: Path, port: int, brokers: int, properties: tuple[tuple[str, str], ...]
) -> Broker | Cluster:
    if brokers > 1:
        return Cluster(data_dir, port, brokers, dict(properties))
    if (nodes := len(nodes_in(data_dir))) > 1:
        raise DataFolderError(f"{data_dir} holds a cluster: say --brokers {nodes}")
    return Broker(data_dir, port, dict(properties))


def _chosen(data_dir: Path, node: int | None) -> list[Broker]:
    nodes = nodes_in(data_dir)
    if node is not None and node > len(nodes):
        raise DataFolderError(f"{data_dir} has no node {node}, but {len(nodes)}")
    return nodes if node is None else [nodes[node - 1]]


def _name(node: Broker) -> str:
    return "broker" if node.member is None else f"broker {node.member.node_id}"


def describe(node: Broker) -> str:
    """Return where a running broker is to be found."""
    running = node.status()
    process = f"process {running.pid}, port {running.port}, " if running else ""
    return f"{process}data in {node.data_dir}"


if __name__ == "__main__":
    broker()
