"""Chaos as a command: ``python -m tests.chaos``; exit status 1 if a promise did not hold."""

import random
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from local.signals import signals_interrupt
from tests.chaos.run import Config, run
from tests.chaos.storm import Tell

DEFAULTS = Config(seed=0)
SEEDS = 1_000_000


@click.command(help="Kill workers and the broker while clients write; see that nothing is lost.")
@click.option("--registrations", default=DEFAULTS.registrations, show_default=True)
@click.option("--workers", default=DEFAULTS.workers, show_default=True)
@click.option("--brokers", default=DEFAULTS.brokers, show_default=True)
@click.option("--clients", default=DEFAULTS.clients, show_default=True)
@click.option("--seed", type=int, help="Decides the order of the faults; by chance if not given.")
@click.option("--faults", default=DEFAULTS.faults, show_default=True, help="Of each kind.")
@click.option(
    "--suspensions",
    default=DEFAULTS.suspensions,
    show_default=True,
    help="How often a worker stands still for longer than its session, and goes on.",
)
@click.option(
    "--deletions",
    default=DEFAULTS.deletions,
    show_default=True,
    help="How often applied records of a partition are deleted.",
)
@click.option(
    "--rebalances",
    default=DEFAULTS.rebalances,
    show_default=True,
    help="How many kinds of faults happen once while the group rebalances.",
)
@click.option("--standbys", type=int, help="STANDBY_REPLICAS of the workers.")
@click.option("--seconds-limit", default=DEFAULTS.seconds_limit, show_default=True)
@click.option(
    "--longest-pause", default=DEFAULTS.longest_pause_seconds, show_default=True, help="In seconds."
)
@click.option("--verify/--no-verify", default=True, help="Run `python -m app verify`.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here.")
def main(
    registrations: int,
    workers: int,
    brokers: int,
    clients: int,
    seed: int | None,
    faults: int,
    suspensions: int,
    deletions: int,
    rebalances: int,
    standbys: int | None,
    seconds_limit: float,
    longest_pause: float,
    verify: bool,
    report: Path | None,
) -> None:
    """Run it, with progress on stderr and the summary on stdout."""
    config = Config(
        seed=random.SystemRandom().randrange(SEEDS) if seed is None else seed,
        registrations=registrations,
        workers=workers,
        brokers=brokers,
        clients=clients,
        faults=faults,
        suspensions=suspensions,
        deletions=deletions,
        rebalances=rebalances,
        longest_pause_seconds=longest_pause,
        seconds_limit=seconds_limit,
        verify=verify,
        settings={} if standbys is None else {"STANDBY_REPLICAS": str(standbys)},
    )
    click.echo(f"seed {config.seed}")
    with signals_interrupt(), _progress() as progress:
        result = run(config, _teller(progress, registrations))
    click.echo(result.summary())
    if report is not None:
        report.write_bytes(result.encode())
    sys.exit(0 if result.good else 1)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("acknowledged"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _teller(progress: Progress, registrations: int) -> Tell:
    task = progress.add_task("starting", total=registrations)

    def tell(what: str, acknowledged: int) -> None:
        progress.update(task, description=what, completed=acknowledged)

    return tell


if __name__ == "__main__":
    main()
