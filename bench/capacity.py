"""What one registration costs: CPU, bytes on each topic, bytes of tables, memory of partitions.

``python -m bench.capacity`` writes bench/results/capacity.json. docs/explanation/capacity.md
calculates with these figures.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import orjson
import psutil

from app.system.files import write_whole
from local.broker import Broker
from local.console import say
from local.places import PROJECT
from tests.support import kafka
from tests.support.worker import Registry, Worker, email_of, wait_until

#: Rows of a request while the users come in.
BATCH_ROWS = 10_000
APPLY_SECONDS = 600
NDJSON = {"Content-Type": "application/x-ndjson"}


@click.command(help=__doc__)
@click.option("--users", default=500_000, show_default=True)
@click.option("--partitions", default=(8, 64), multiple=True, show_default=True, type=int)
def main(users: int, partitions: tuple[int, ...]) -> None:
    """Measure with each number of partitions, and write what was found."""
    told = {"users": users, "runs": [_measured(users, number) for number in partitions]}
    text = orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_whole(PROJECT / "bench" / "results" / "capacity.json", text)
    say(text.decode())


def _measured(users: int, partitions: int) -> Mapping[str, Any]:
    with _registry(partitions) as (broker, worker):
        broker_process = psutil.Process(_pid(broker))
        process = psutil.Process(worker.pid)
        idle_mib = process.memory_info().rss / 2**20
        before = _cpu(process), _cpu(broker_process)
        began = time.monotonic()
        _register(worker, users)
        wait_until(lambda: _applied(worker) >= users, APPLY_SECONDS, "all users are applied")
        return {
            "partitions": partitions,
            "seconds": round(time.monotonic() - began, 1),
            "worker_cpu_us": _each(_cpu(process) - before[0], users),
            "broker_cpu_us": _each(_cpu(broker_process) - before[1], users),
            "idle_mib": round(idle_mib),
            "loaded_mib": round(process.memory_info().rss / 2**20),
            "topic_bytes": _topic_bytes(broker, worker.registry, users),
            "table_bytes": _table_bytes(worker, users),
        }


@contextmanager
def _registry(partitions: int) -> Iterator[tuple[Broker, Worker]]:
    with tempfile.TemporaryDirectory(prefix="capacity-") as name:
        folder = Path(name)
        with Broker(folder / "broker", port=0) as broker:
            settings = {"PARTITIONS": str(partitions)}
            with Registry(broker.address, folder, settings=settings).worker() as worker:
                yield broker, worker


def _pid(broker: Broker) -> int:
    record = broker.status()
    assert record is not None
    return record.pid


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _each(seconds: float, users: int) -> float:
    return round(seconds / users * 1e6, 1)


def _register(worker: Worker, users: int) -> None:
    for first in range(0, users, BATCH_ROWS):
        ids = [f"user-{number:09}" for number in range(first, min(first + BATCH_ROWS, users))]
        rows = ({"id": i, "name": "Ada Lovelace", "email": email_of(i)} for i in ids)
        told = worker.post("/users/batch", data=b"\n".join(map(orjson.dumps, rows)), headers=NDJSON)
        told.raise_for_status()


def _applied(worker: Worker) -> float:
    """Return how many outcomes there are."""
    text = worker.get("/metrics").text
    lines = (line for line in text.splitlines() if line.startswith("registry_outcomes_total{"))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _topic_bytes(broker: Broker, registry: Registry, users: int) -> Mapping[str, float]:
    """Return bytes of each topic's log a user: what is written, before anything is compacted."""
    storage = broker.data_dir / "storage"
    topics = kafka.copies(broker.address, registry.app_id)
    return {
        topic.removeprefix(f"{registry.app_id}.").replace(registry.app_id, "APP_ID"): round(
            sum(log.stat().st_size for log in storage.glob(f"{topic}-*/*.log")) / users, 1
        )
        for topic in sorted(topics)
    }


def _table_bytes(worker: Worker, users: int) -> float:
    files = worker.folder.glob("v1/tables/**/*.sst")
    return round(sum(file.stat().st_size for file in files) / users, 1)


if __name__ == "__main__":
    main()
