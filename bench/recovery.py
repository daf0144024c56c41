"""How fast an engine rebuilds its table from a changelog, from the first row to the last.

The peers say how far they are: Kafka Streams by its listener, stock Faust by the offsets that its
recovery has reached. Their changelog is written beforehand. Ours holds more than rows, so the
worker first applies all users, loses its folder, and says in its log what it recovered in which
time.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench.commits import Committed
from bench.engines import Engine, Place, Running, plain_worker, wait_while, worker_running
from bench.errors import PeerFailed
from bench.meter import Meter
from bench.workloads import PARTITIONS, fill_changelog, make_topic

FIRST_ROW_SECONDS = 90
APPLY_SECONDS = 600
POLL_SECONDS = 0.05
EVENT = "tables recovered"


@dataclass(frozen=True, slots=True)
class Recovered:
    """One run. CPU is microseconds a row, of the engine alone."""

    per_second: float
    cpu_us: float
    rows: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Step:
    """So many rows were back at a moment (`time.time`)."""

    at: float
    rows: int


def measure(engine: Engine, place: Place, rows: int, seconds: float) -> Recovered:
    """Recover a changelog of new users into an empty folder, or as much as a time allows."""
    fill_changelog(place.brokers, f"{place.group}-users-changelog", rows)
    make_topic(place.brokers, place.topic)
    with engine.running(place) as running, Meter(running.pid) as meter:
        steps = _follow(running, rows, seconds)
        return _recovered(steps, meter, rows)


def _follow(running: Running, rows: int, seconds: float) -> Sequence[Step]:
    def nothing_yet() -> bool:
        return not any(step.rows for step in _steps(running.log))

    wait_while(running, nothing_yet, FIRST_ROW_SECONDS, "the first row is recovered")
    deadline = time.monotonic() + seconds
    steps = _steps(running.log)
    while steps[-1].rows < rows and time.monotonic() < deadline:
        running.require_alive()
        time.sleep(POLL_SECONDS)
        steps = _steps(running.log)
    time.sleep(2 * POLL_SECONDS)  # the meter's last sample comes after the last row
    return steps


def _steps(log: Path) -> Sequence[Step]:
    """Return what a peer said so far; its log may hold other lines too."""
    said = [_json(line) for line in log.read_bytes().splitlines()]
    return [Step(line["at"], line["restored"]) for line in said if "restored" in line]


def _json(line: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _recovered(steps: Sequence[Step], meter: Meter, rows: int) -> Recovered:
    first = steps[0]
    last = next(step for step in steps if step.rows == steps[-1].rows)
    count = last.rows - first.rows
    if not count:
        raise PeerFailed("all rows came at once: give it more users")
    cpu = meter.cpu_seconds(first.at, last.at)
    rate = count / (last.at - first.at)
    return Recovered(rate, cpu / count * 1e6, last.rows, last.rows >= rows)


class OurRecovery:
    """Our worker, whose changelog is written once, by applying a workload, and then recovered."""

    def __init__(self, place: Place, users: int) -> None:
        self._place = place
        self._worker = plain_worker(place)
        self._users = users

    def apply(self) -> None:
        """Let the worker apply everything, and stop it."""
        place = self._place
        committed = Committed(place.brokers, place.group, PARTITIONS, place.topic)
        with committed, worker_running(self._worker) as running:
            wait_while(
                running,
                lambda: committed.records() < self._users,
                APPLY_SECONDS,
                "all users are applied",
            )

    def measure(self) -> Recovered:
        """Start the worker with no folder, and return what it says of its recovery."""
        shutil.rmtree(self._worker.folder)
        with worker_running(self._worker) as running, Meter(running.pid) as meter:
            wait_while(running, lambda: not _word(running.log), FIRST_ROW_SECONDS, EVENT)
            now = time.time()
            word = _word(running.log)
        rows, seconds = word["rows"], word["seconds"]
        cpu = meter.cpu_seconds(now - seconds, now)
        return Recovered(rows / seconds, cpu / rows * 1e6, rows, rows >= self._users)


def _word(log: Path) -> dict[str, Any]:
    """Return what the worker's log says of a recovery that found rows; empty if nothing yet."""
    said = map(_json, log.read_bytes().splitlines())
    return next((line for line in said if line.get("event") == EVENT and line["rows"]), {})
