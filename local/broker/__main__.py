"""The broker manager as a command: ``python -m local.broker start|run|stop|kill|status``."""

import time
from contextlib import suppress
from pathlib import Path

import click

from local.broker.node import DEFAULT_PORT, POLL_SECONDS, Broker
from local.commands import OneLineErrors
from local.console import say
from local.errors import BrokerError
from local.signals import signals_interrupt

EXIT_NOT_RUNNING = 1

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The broker's own folder: storage, settings, logs.",
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


@click.group(cls=OneLineErrors)
def broker() -> None:
    """Run one Kafka node on this machine, in the background."""


@broker.command()
@data_dir_option
@port_option
@property_option
def start(data_dir: Path, port: int, properties: tuple[tuple[str, str], ...]) -> None:
    """Start the broker, and return once it answers; port 0 is a free one."""
    node = Broker(data_dir, port, dict(properties))
    word = "started" if node.start() else "already running"
    say(f"broker {word}: {describe(node)}")


@broker.command()
@data_dir_option
@port_option
@property_option
def run(data_dir: Path, port: int, properties: tuple[tuple[str, str], ...]) -> None:
    """Run the broker in the foreground until a signal asks to end, for process managers."""
    node = Broker(data_dir, port, dict(properties))
    with signals_interrupt(), suppress(KeyboardInterrupt), node:
        say(f"broker runs: {describe(node)}")
        while not (how := node.ending()):
            time.sleep(POLL_SECONDS)
        raise BrokerError(f"the broker ended ({how}): see {node.log.file}")


@broker.command()
@data_dir_option
def stop(data_dir: Path) -> None:
    """Stop the broker."""
    say("broker stopped" if Broker(data_dir).stop() else "broker not running")


@broker.command()
@data_dir_option
def kill(data_dir: Path) -> None:
    """End the broker at once, as a crash would."""
    Broker(data_dir).kill()


@broker.command()
@data_dir_option
@click.pass_context
def status(ctx: click.Context, data_dir: Path) -> None:
    """Tell whether the broker runs: exit status 0 if it does, 1 if not."""
    node = Broker(data_dir)
    if node.status() is None:
        say(f"broker not running: data in {node.data_dir}")
        ctx.exit(EXIT_NOT_RUNNING)
    say(f"broker running: {describe(node)}")


def describe(node: Broker) -> str:
    """Return where a running broker is to be found."""
    running = node.status()
    process = f"process {running.pid}, port {running.port}, " if running else ""
    return f"{process}data in {node.data_dir}"


if __name__ == "__main__":
    broker()
