"""``make bench``: a real broker, our worker and its peers, medians of several runs."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import report, results
from bench.engines import ENGINES, PEERS_PYTHON
from bench.servers import SERVERS
from bench.suite import Plan, Suite
from bench.workloads import WORKLOADS
from local.broker import Broker
from local.places import PROJECT

Command = TypeVar("Command", bound=Callable[..., Any])

#: A deleted changelog makes room at once.
BROKER_PROPERTIES = {"log.segment.delete.delay.ms": "1000"}


def _chosen(known: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def parse(_context: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
        names = value.split(",") if value else list(known)
        if unknown := set(names) - set(known):
            raise click.BadParameter(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return [name for name in known if name in names]

    return parse


def _names(option: str, known: Sequence[str], what: str) -> Callable[[Command], Command]:
    text = f"{what}, separated by commas: {', '.join(known)}.  [default: all]"
    return click.option(option, default="", callback=_chosen(known), help=text)


@click.command(help="Measure one worker beside its peers, on a broker of its own.")
@click.option("--runs", default=3, show_default=True, help="Runs of each; medians are reported.")
@click.option("--users", default=1_000_000, show_default=True, help="Records of a workload.")
@click.option("--seconds", default=20.0, show_default=True, help="How long a slow one is watched.")
@click.option("--load-seconds", default=6.0, show_default=True, help="How long a server is driven.")
@click.option("--live-seconds", default=30.0, show_default=True, help="How long a rate is offered.")
@click.option("--lag-seconds", default=60.0, show_default=True, help="How long lag is watched.")
@click.option("--lag-runs", default=1, show_default=True, help="Runs of that: minutes each.")
@_names("--only", Suite.WORKS, "Works to measure")
@_names("--peers", list(dict.fromkeys([*ENGINES, *SERVERS])), "Engines and servers to measure")
@_names("--workload", list(WORKLOADS), "Workloads to apply")
@click.option(
    "--results",
    "folder",
    type=click.Path(path_type=Path),
    default=results.FOLDER,
    help="Where the results go.  [default: bench/results]",
)
def main(
    runs: int,
    users: int,
    seconds: float,
    load_seconds: float,
    live_seconds: float,
    lag_seconds: float,
    lag_runs: int,
    only: Sequence[str],
    peers: Sequence[str],
    workload: Sequence[str],
    folder: Path,
) -> None:
    """Measure, and write the results."""
    # The broker is a session of its own: the end of this process must be its end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    engines = [ENGINES[name] for name in peers if name in ENGINES]
    servers = [name for name in peers if name in SERVERS]
    workloads = [WORKLOADS[name] for name in workload]
    times = seconds, load_seconds, live_seconds, lag_seconds
    plan = Plan(runs, users, *times, lag_runs, engines, servers, workloads)
    with (
        tempfile.TemporaryDirectory() as name,
        _progress() as progress,
        Broker(Path(name) / "broker", port=0, properties=BROKER_PROPERTIES) as broker,
    ):
        Suite(broker, Path(name), plan, folder, progress).measure(only)
    _draw(folder)
    report.write(folder)
    report.show(folder, only)


def _progress() -> Progress:
    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    return Progress(*columns, console=Console(stderr=True))


def _draw(folder: Path) -> None:
    with suppress(FileNotFoundError):  # without the peers' packages there are no plots
        command = [str(PEERS_PYTHON), "-m", "bench.plot", str(folder.absolute())]
        subprocess.run(command, cwd=PROJECT, check=True)


if __name__ == "__main__":
    main()
