"""``python -m app backup`` and ``python -m app restore``."""

from pathlib import Path
from typing import TypeVar

import click

from app.cli.runner import run
from app.config.settings import settings
from app.ops.backup.files import Manifest, by_topic
from app.ops.backup.restoring import restore as restore_registry
from app.ops.backup.saving import back_up

T = TypeVar("T")

_folder = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


@click.command()
@_folder
def backup(folder: Path) -> None:
    """Save the whole registry to FOLDER, which must be new or empty; workers may run.

    Everything is saved: users and who holds which address, every record that topics still have,
    outcomes, dead letters. For some seconds writes are refused (503 with Retry-After), until
    nothing is in flight: that moment is what is saved. The files hold names and addresses, those of
    erased users, too, as far as topics still have them.

    Exit status: 0 done; 2 it could not be done, and FOLDER holds no backup.
    """
    done = run(back_up(settings(), folder, click.echo))
    _tell(done.manifest)
    click.echo(f"saved in {folder}; writes were held for {done.held_seconds:.1f} s")


@click.command()
@_folder
def restore(folder: Path) -> None:
    """Make the registry that FOLDER holds, where there is none: same APP_ID, TOPIC_PREFIX, secret.

    Positions that were told answer as before. Workers must not run until it is done; one that was
    interrupted is begun again by the same command.

    Exit status: 0 done; 2 refused, or it could not be done.
    """
    done = run(restore_registry(settings(), folder, click.echo))
    _tell(done.manifest)
    click.echo(f"restored from {folder}: start workers, and python -m app verify")


def _tell(manifest: Manifest) -> None:
    for topic, records in by_topic(manifest).items():
        click.echo(f"{topic}: {records:,} records")
