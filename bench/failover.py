"""How long a partition rests when its worker goes: until lookups are fresh and writes settled.

``python -m bench.failover`` writes bench/results/failover.json: medians, in seconds from the kill
or stop, of all partitions, as seen through the worker that stays.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import click
import orjson
import requests

from app.domain.keys import encode_key, partition_of
from app.system.files import write_whole
from bench.capacity import _applied, _register
from local.broker import Broker
from local.console import say
from local.places import PROJECT
from tests.support.worker import Registry, Worker, email_of, is_fresh, wait_until

PARTITIONS = 8
WAIT_SECONDS = 90


def _gone(worker: Worker) -> None:
    worker.kill()


def _killed(worker: Worker) -> None:
    worker.kill()
    worker.launch()


def _restarted(worker: Worker) -> None:
    worker.stop()
    worker.launch()


WAYS: Mapping[str, Callable[[Worker], None]] = {
    "killed, and not started again": _gone,
    "killed, and started again at once": _killed,
    "stopped, and started again": _restarted,
}


@click.command(help=__doc__)
@click.option("--users", default=100_000, show_default=True)
@click.option("--runs", default=3, show_default=True)
def main(users: int, runs: int) -> None:
    """Measure each way with and without standbys, and write what was found."""
    found = [told for standbys in (0, 1) for told in _measured(users, runs, standbys)]
    told = {"users": users, "runs": runs, "partitions": PARTITIONS, "ways": found}
    text = orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_whole(PROJECT / "bench" / "results" / "failover.json", text)
    say(text.decode())


def _measured(users: int, runs: int, standbys: int) -> list[Mapping[str, object]]:
    with tempfile.TemporaryDirectory(prefix="failover-") as name:
        folder = Path(name)
        settings = {"PARTITIONS": str(PARTITIONS), "STANDBY_REPLICAS": str(standbys)}
        with Broker(folder / "broker", port=0) as broker:
            registry = Registry(broker.address, folder, settings=settings)
            with registry.worker(1) as stays, registry.worker(2) as goes:
                _register(stays, users)
                wait_until(
                    lambda: _applied(stays) + _applied(goes) >= users, 300, "all are applied"
                )
                return [_way(stays, goes, way, runs, standbys) for way in WAYS]


def _way(stays: Worker, goes: Worker, way: str, runs: int, standbys: int) -> Mapping[str, object]:
    times = [_once(stays, goes, way, f"{standbys}-{run}") for run in range(runs)]
    fresh, settled = (round(median(each), 1) for each in zip(*times, strict=True))
    told = {"way": way, "standbys": standbys, "fresh_seconds": fresh, "settled_seconds": settled}
    say(str(told))
    return told


def _once(stays: Worker, goes: Worker, way: str, run: str) -> tuple[float, float]:
    """Return after how many seconds lookups were fresh, and writes settled, in all partitions."""
    began = time.monotonic()
    WAYS[way](goes)
    positions = [_write(stays, f"{way}-{run}-{number}") for number in range(PARTITIONS * 4)]
    wait_until(lambda: all(map(is_fresh, _lookups(stays))), WAIT_SECONDS, "lookups are fresh")
    fresh = time.monotonic() - began
    wait_until(lambda: all(_is_settled(stays, p) for p in positions), WAIT_SECONDS, "settled")
    settled = time.monotonic() - began
    if not _runs(goes):
        goes.kill()
        goes.launch()
    wait_until(lambda: _runs(goes) and all(map(is_fresh, _lookups(goes))), WAIT_SECONDS, "back")
    return fresh, settled


def _lookups(worker: Worker) -> list[requests.Response]:
    """Return what a worker answers of one user of each partition."""
    ids: dict[int, str] = {}
    for number in range(PARTITIONS * 20):
        user_id = f"user-{number:09}"
        ids.setdefault(partition_of(encode_key(user_id), PARTITIONS), user_id)
    return [worker.get(f"/users/{user_id}") for user_id in ids.values()]


def _write(worker: Worker, user_id: str) -> str:
    user_id = user_id.replace(",", "").replace(" ", "-")
    row = {"id": user_id, "name": "Ada Lovelace", "email": email_of(user_id)}
    told = worker.post("/users", json=row)
    told.raise_for_status()
    return str(told.json()["position"])


def _is_settled(worker: Worker, position: str) -> bool:
    answer = worker.get(f"/registrations/{position}")
    return answer.status_code == 200 and answer.json()["outcome"] == "registered"


def _runs(worker: Worker) -> bool:
    return worker.is_running and worker.is_ready()


if __name__ == "__main__":
    main()
