"""``python -m app load``."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import orjson
import uvloop

from app.config.target import ca_file_option, key_option
from app.domain.errors import RegistryError
from app.system.files import write_whole
from tools.load import printing
from tools.load.driving import drive
from tools.load.options import CODINGS, DEFAULT_DURATION_SECONDS, MODES, LoadError, Options
from tools.load.report import Report

#: Exit statuses: nothing was acknowledged; a mistake, or nothing answers; Ctrl-C.
EXIT_NOTHING = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_STDOUT = Path("-")

#: At most a day.
_SECONDS = click.FloatRange(min=0, max=86_400, min_open=True)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("url")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="single",
    show_default=True,
    help="One registration a request, a JSON array, NDJSON, or tRPC calls.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    metavar="N",
    help="Registrations in a request, unless the mode is single.",
)
@click.option(
    "--compress",
    type=click.Choice(CODINGS),
    help="Send batches compressed.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, max=10_000_000, min_open=True),
    metavar="N",
    help="Registrations a second, by a fixed schedule. Default: as fast as answers come.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 10_000),
    default=64,
    show_default=True,
    metavar="N",
    help="Requests that are under way at once.",
)
@click.option(
    "--duration",
    type=_SECONDS,
    metavar="SECONDS",
    help=f"How long to send, after the warm-up. Default: {DEFAULT_DURATION_SECONDS:g}.",
)
@click.option(
    "--registrations",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many to send, after the warm-up, however long it takes.",
)
@click.option(
    "--warmup",
    type=click.FloatRange(0, 86_400),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to send before anything counts.",
)
@click.option(
    "--duplicates",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Share of registrations, 0 to 1, that repeat an earlier one of this run.",
)
@click.option("--prefix", metavar="TEXT", help="Begin of every id. Default: a random one.")
@click.option(
    "--seed", type=int, default=0, show_default=True, metavar="N", help="Decides what is repeated."
)
@click.option(
    "--name-bytes",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    metavar="N",
    help="Length of each name.",
)
@click.option(
    "--retry",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="How often to send a request again that is refused with 429 or 503, after Retry-After.",
)
@click.option(
    "--timeout",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an answer, or a connection, may take.",
)
@key_option
@ca_file_option
@click.option("--keep-ids", type=_FILE, help="Write the ids that were acknowledged, one a line.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write the report as JSON; - for standard output.",
)
def load(json_file: Path | None, prefix: str | None, **given: Any) -> None:
    """Drive the deployment at URL with registrations, and report what it acknowledged.

    With --rate, latencies are measured from the moment at which a request was due, whether or not
    it could be sent then.

    Exit status: 0 done; 1 nothing was acknowledged; 2 a wrong option, or nothing answers at the
    address; 130 ended by Ctrl-C, with a report of the time until then.
    """
    try:
        options = Options(**given) if prefix is None else Options(prefix=prefix, **given)
        _write(json_file, "")  # before the run: what it measures is not to be lost
        told = _drive(options)
        _tell(told, json_file)
    except RegistryError as error:
        _end(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        _end("interrupted", EXIT_INTERRUPTED)
    if told.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
    raise SystemExit(0 if told.acknowledged else EXIT_NOTHING)


def _drive(options: Options) -> Report:
    with printing.bar() as bar, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_interrupted(options, bar))


async def _until_interrupted(options: Options, bar: printing.Bar | None) -> Report:
    """Run; the first Ctrl-C ends the run early, the second at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def interrupt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await drive(options, watch=bar.show if bar else None, stop=stop)
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _tell(told: Report, json_file: Path | None) -> None:
    """Print the report. If JSON goes to standard output, the tables go to standard error."""
    to_stdout = json_file == _STDOUT
    printing.print_report(told, sys.stderr if to_stdout else sys.stdout)
    text = orjson.dumps(told.as_json(), option=orjson.OPT_INDENT_2).decode()
    if to_stdout:
        click.echo(text)
    _write(json_file, f"{text}\n")


def _write(path: Path | None, text: str) -> None:
    if path is None or path == _STDOUT:
        return
    try:
        write_whole(path, text)
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}") from None


def _end(why: str, status: int) -> NoReturn:
    click.echo(why, err=True)
    raise SystemExit(status) from None
