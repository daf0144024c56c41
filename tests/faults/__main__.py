"""``python -m tests.faults``: runs cells, and writes down what happened in each."""

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from local.broker import Broker
from tests.faults import table
from tests.faults.cells import Cells
from tests.faults.steps import STEPS, Kind, Part, Step
from tests.support.worker import Registry

Cell = tuple[Step, Kind]


@click.command(help="Inject faults at every step of a worker; see that no promise is broken.")
@click.option("--part", type=click.Choice([part.name for part in Part]), help="Only this part.")
@click.option("--kind", "kinds", type=click.Choice([kind.name for kind in Kind]), multiple=True)
@click.option("--step", "steps", multiple=True, help="Only steps whose names begin so.")
@click.option("--untried", is_flag=True, help="Only cells that have no result yet.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where data and logs stay.")
def main(
    part: str | None, kinds: Sequence[str], steps: Sequence[str], untried: bool, folder: Path | None
) -> None:
    """Run the cells that are asked for on a broker of their own; status 1 if one failed."""
    happened = table.read() if untried else {}
    parts = [
        [
            (each, what)
            for each, what in cells_of(of)
            if what not in happened.get(each.name, {})
            and (not kinds or what.name in kinds)
            and each.name.startswith(tuple(steps) or "")
        ]
        for of in Part
        if part in (None, of.name)
    ]
    folder = folder or Path(tempfile.mkdtemp(prefix="faults-"))
    # Most of the time is waiting: for sessions to end, and for workers to start.
    with Broker(folder / "broker", port=0) as broker, ThreadPoolExecutor() as at_once:
        running = [at_once.submit(run, Registry(broker.address, folder), cells) for cells in parts]
        failed = [cell for each in running for cell in each.result()]
    table.write()
    sys.exit(bool(failed))


def cells_of(part: Part) -> list[Cell]:
    """Return the cells of a part; those that need no start of a worker come first."""
    steps = [step for step in STEPS.values() if step.part is part]
    return [(step, kind) for kind in reversed(Kind) for step in steps if kind in step.kinds]


def run(registry: Registry, cells: Sequence[Cell]) -> list[Cell]:
    """Run cells one after the other; return those that failed. After one, all begins anew."""
    failed: list[Cell] = []
    left = list(cells)
    while left:
        pair, (step, kind) = Cells(Registry(registry.brokers, registry.folder)), left[0]
        try:
            with pair.running():
                while left:
                    step, kind = left.pop(0)
                    began = time.monotonic()
                    told = pair.run(step, kind)
                    seconds = time.monotonic() - began
                    click.echo(f"{seconds:5.1f} s  {step.name} / {kind}: {told}")
                    table.note(step, kind, told)
            pair.verify()
            click.echo(f"verified; longest {pair.ledger.most_seconds:.1f} s; {pair.ledger.told}")
        except Exception as error:
            failed.append((step, kind))
            left = [cell for cell in left if cell not in failed]
            click.echo(
                f"FAILED  {step.name} / {kind}, in {pair.registry.app_id}: "
                f"{type(error).__name__}: {str(error)[-1500:]}"
            )
    return failed


if __name__ == "__main__":
    main()
