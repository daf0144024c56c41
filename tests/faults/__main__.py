"""``python -m tests.faults``: run cells on a broker of their own, and write down what happened."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local.broker import Broker
from tests.faults import table
from tests.faults.cells import Cells
from tests.faults.steps import STEPS, Kind, Part, Step
from tests.worker import Registry

Cell = tuple[Step, Kind]


def main() -> None:
    """Run the cells that are asked for: all, unless a part, a step or a kind is named."""
    asked = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    asked.add_argument("--part", choices=[part.name for part in Part], help="only this part")
    asked.add_argument("--step", help="only steps that begin so", default="")
    asked.add_argument("--kind", choices=[kind.name for kind in Kind], help="only this kind")
    asked.add_argument("--untried", action="store_true", help="only cells without a result")
    asked.add_argument("--folder", type=Path, help="where data and logs stay")
    wanted = asked.parse_args()
    folder = wanted.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    happened = table.read() if wanted.untried else {}
    parts = {
        part: [
            (step, kind)
            for step in STEPS.values()
            for kind in step.kinds
            if step.part is part
            and wanted.part in (None, part.name)
            and wanted.kind in (None, kind.name)
            and step.name.startswith(wanted.step)
            and kind not in happened.get(step.name, {})
        ]
        for part in Part
    }
    # Most of the time is waiting: for sessions to end, and for workers to start.
    with Broker(folder / "broker", port=0) as broker, ThreadPoolExecutor() as at_once:
        running = [
            at_once.submit(run, Registry(broker.address, folder), cells) for cells in parts.values()
        ]
        failed = [cell for each in running for cell in each.result()]
    table.write()
    sys.exit(bool(failed))


def run(registry: Registry, cells: Sequence[Cell]) -> list[Cell]:
    """Run cells one after the other; return those that failed. After one, all begins anew."""
    failed: list[Cell] = []
    left = list(cells)
    while left:
        try:
            pair = Cells(Registry(registry.brokers, registry.folder))
            with pair.running():
                while left:
                    step, kind = left.pop(0)
                    began = time.monotonic()
                    told = pair.run(step, kind)
                    print(
                        f"{time.monotonic() - began:5.1f} s  {step.name} / {kind}: {told}",
                        flush=True,
                    )
                    table.note(step, kind, told)
            pair.verify()
            print(f"verified; longest {pair.ledger.most_seconds:.1f} s, {pair.ledger.told}")
        except Exception as error:
            failed.append((step, kind))
            print(
                f"FAILED  {step.name} / {kind}, in {pair.registry.app_id}: "
                f"{type(error).__name__}: {str(error)[-1500:]}",
                flush=True,
            )
    return failed


if __name__ == "__main__":
    main()
