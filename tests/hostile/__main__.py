"""All attacks, one after the other: ``python -m tests.hostile``; exit status 1 if one succeeds."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from local.broker import Broker
from tests.hostile.attacks import ATTACKS
from tests.hostile.trial import ELSEWHERE, SETTINGS, attempt, fill, limited
from tests.support.worker import Registry

USERS = 20_000


@click.command(help="Attack a worker; see that it stays alive and serves an honest client.")
@click.argument("names", nargs=-1, type=click.Choice(list(ATTACKS)))
@click.option("--seconds", default=30.0, show_default=True, help="How long each attack lasts.")
@click.option("--live-ms", default=250.0, show_default=True, help="/health/live, p99 at most.")
@click.option(
    "--address",
    default=ELSEWHERE,
    show_default=True,
    help="Where attacks come from; the honest client is at 127.0.0.1.",
)
def main(names: Sequence[str], seconds: float, live_ms: float, address: str) -> None:
    """Run them against one worker with 256 descriptors and 512 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    bad = 0
    with Broker(folder / "broker", port=0) as broker:
        registry = Registry(broker.address, folder, settings=SETTINGS)
        worker = limited(registry.worker())
        with worker:
            fill(worker, USERS)
            for name in names or ATTACKS:
                result = attempt(name, worker, seconds, address)
                bad += bool(result.failures) or result.live_p99_ms > live_ms
                click.echo(result.line())
                if worker.has_ended:
                    click.echo(worker.log.read_text()[-2_000:])
                    worker.start()
    click.echo(f"{bad} of {len(names or ATTACKS)} attacks succeed")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
