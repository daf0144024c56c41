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
    """Save the whole registry to FOLDER, which must be new or empty. Workers may run.

    It saves users, holders of addresses, every record in the topics, outcomes and dead letters.
    For some seconds workers refuse writes (503 with Retry-After), until nothing is in flight. The
    backup is of that moment. The files hold names and addresses, also those of erased users, as
    long as the topics have them.

    Exit status: 0 done; 2 failed, and FOLDER holds no backup.
    """
    done = run(back_up(settings(), folder, click.echo))
    _tell(done.manifest)
    click.echo(f"saved in {folder}; writes were held for {done.held_seconds:.1f} s")


@click.command()
@_folder
def restore(folder: Path) -> None:
    """Restore the registry in FOLDER, with the same APP_ID, TOPIC_PREFIX and secret.

    There must be no registry yet. Positions that clients know still answer. Do not start workers
    before it is done. If it is interrupted, run the same command again.

    Exit status: 0 done; 2 refused or failed.
    """
    done = run(restore_registry(settings(), folder, click.echo))
    _tell(done.manifest)
    click.echo(f"restored from {folder}: start workers, and python -m app verify")


def _tell(manifest: Manifest) -> None:
    for topic, records in by_topic(manifest).items():
        click.echo(f"{topic}: {records:,} records")
