"""``make bench``: a real broker, one worker, medians of several runs, a table and a JSON file."""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import orjson
import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import acknowledge, apply
from local.broker import Broker
from tests.worker import Registry

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: the median and the extremes of its runs, and what goes with it."""

    work: str
    per_second: float
    lowest: float
    highest: float
    beside: str


@click.command(help="Measure what one worker applies and acknowledges, on a broker of its own.")
@click.option("--runs", default=3, show_default=True, help="Runs of each; the median is reported.")
@click.option("--users", default=20_000, show_default=True, help="Users to apply in a run.")
@click.option("--requests", default=5_000, show_default=True, help="Single requests in a run.")
def main(runs: int, users: int, requests: int) -> None:
    """Run every measurement and write the results."""
    with tempfile.TemporaryDirectory() as name, Progress(console=Console(stderr=True)) as progress:
        step = _stepper(progress, 4 * runs)
        with Broker(Path(name) / "broker", port=0) as broker:
            rows = _measure(broker.address, Path(name), runs, users, requests, step)
    _show(rows)
    _save(rows, runs)


def _stepper(progress: Progress, steps: int) -> Callable[[str], None]:
    task = progress.add_task("starting", total=steps)

    def step(what: str) -> None:
        progress.update(task, description=what, advance=1)

    return step


def _measure(
    brokers: str, folder: Path, runs: int, users: int, requests: int, step: Callable[[str], None]
) -> list[Row]:
    applied, singles, batches, bare = [], [], [], []
    for _ in range(runs):
        step("applying")
        applied.append(apply.users_per_second(brokers, folder, users))
        with _worker(brokers, folder) as url:
            step("acknowledging single requests")
            singles.append(acknowledge.singles(url, requests))
        with _worker(brokers, folder) as url:
            step("acknowledging tRPC batches")
            batches.append(acknowledge.trpc_batches(url, max(requests // acknowledge.BATCH, 64)))
        with acknowledge.bare_aiohttp() as url:
            step("bare aiohttp")
            bare.append(acknowledge.singles(url, requests))
    cpu = statistics.median(microseconds for _, microseconds in applied)
    return [
        _row("apply to the table users", [rate for rate, _ in applied], f"{cpu:.0f} µs CPU a user"),
        _row("acknowledge, one a request", [s.per_second for s in singles], _latency(singles)),
        _row("acknowledge, tRPC batch of 100", [b.per_second for b in batches], _latency(batches)),
        _row("bare aiohttp answer", [b.per_second for b in bare], _latency(bare)),
    ]


@contextmanager
def _worker(brokers: str, folder: Path) -> Iterator[str]:
    with Registry(brokers, folder).worker() as worker:
        yield worker.url


def _row(work: str, rates: list[float], beside: str) -> Row:
    return Row(work, statistics.median(rates), min(rates), max(rates), beside)


def _latency(runs: list[acknowledge.Acknowledged]) -> str:
    p50 = statistics.median(run.p50_ms for run in runs)
    p99 = statistics.median(run.p99_ms for run in runs)
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms a request"


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores, {memory:.0f} GiB; broker, worker and client share them"


def _show(rows: list[Row]) -> None:
    ceiling = rows[-1].per_second
    table = Table(title="One worker", caption=_machine())
    for heading in ("work", "per second", "lowest-highest", "of bare aiohttp", ""):
        table.add_column(heading, justify="left" if heading in ("work", "") else "right")
    for row in rows:
        share = "" if row.work.startswith("apply") else f"{row.per_second / ceiling:.2f} x"
        extremes = f"{row.lowest:,.0f}-{row.highest:,.0f}"
        table.add_row(row.work, f"{row.per_second:,.0f}", extremes, share, row.beside)
    Console(width=120).print(table)


def _save(rows: list[Row], runs: int) -> None:
    RESULTS.mkdir(exist_ok=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "runs": runs,
        "rows": [asdict(row) for row in rows],
    }
    (RESULTS / "baseline.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
