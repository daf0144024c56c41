"""``python -m app doctor``."""

import click
import orjson

from app.cli.runner import run
from app.config.settings import settings
from app.ops.doctor.findings import Mark
from app.ops.doctor.printing import as_json, print_findings
from app.ops.doctor.run import examine

#: Exit status: something keeps the registry from its work.
EXIT_PROBLEMS = 1


@click.command()
@click.option("--json", "is_json", is_flag=True, help="Write the findings as JSON.")
def doctor(is_json: bool) -> None:
    """Check what a worker needs, and say how to correct what is wrong.

    Checks settings and their files, versions, disk, open files, clock, keys, certificates, the
    worker at WEB_HOST:WEB_PORT, brokers, topics and the consumer group. Changes nothing. Workers
    may run.

    Exit status: 0 at most warnings; 1 problems; 2 wrong settings or options.
    """
    told = run(examine(settings()))
    if is_json:
        click.echo(orjson.dumps(as_json(told), option=orjson.OPT_INDENT_2))
    else:
        print_findings(told)
    if any(finding.mark is Mark.PROBLEM for _, finding in told):
        raise SystemExit(EXIT_PROBLEMS)
