"""``python -m app verify``."""

from pathlib import Path

import click

from app.cli.runner import run
from app.config.settings import settings
from app.ops.verify import Findings
from app.ops.verify import verify as verify_registry


@click.command()
@click.option("--ids", is_flag=True, help="Name the users that differ. Ids may be personal data.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="List at most this many differences of each kind. All are counted.",
)
@click.option(
    "--stores",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Compare the stores below a worker's DATA_DIR, too; that worker must not run. May be "
    "given more than once.",
)
def verify(ids: bool, limit: int, stores: tuple[Path, ...]) -> None:
    """Recompute the tables from the topics, and report every difference.

    Folds user-registrations, email-claims and email-decisions, and compares the result with what
    workers have written up to their markers: rows of users and emails, claims and verdicts,
    outcomes, dead letters, moved records. Writes nothing. Workers may run.

    Exit status: 0 no difference; 1 differences; 2 only a part could be checked, because the
    beginning of a topic is gone, or nothing. Differences have the places of records: topic,
    partition:offset.
    """
    findings = Findings(limit, with_ids=ids)
    run(verify_registry(settings(), findings, stores))
    for line in findings.lines():
        click.echo(line)
    raise SystemExit(findings.status)
