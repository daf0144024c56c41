"""How fast users are looked up: at the worker that owns them, and through another one.

One worker applies all users and answers for them by itself, beside a bare `aiohttp.web` answer of
the same bytes. Then two more join, and lookups by id and by email go to each of the three; last,
those of users that another worker owns come at a rate, so that each is forwarded.
"""

import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import orjson

from app.domain.keys import partition_of
from app.query.worker_client import FORWARDED_HEADER
from bench.engines import Place, worker_registry
from bench.errors import PeerFailed
from bench.meter import Meter
from bench.reader import Task, describe
from bench.servers import BARE_ANSWER
from bench.workloads import PARTITIONS, WORKLOADS
from local.places import PROJECT
from tests.support.worker import Worker, wait_until

#: Connections to try at full speed.
CONNECTIONS = (16, 64)
#: Users of whom a random one is asked for.
SAMPLE = 20_000
FORWARDED_PER_SECOND = 500
#: How long the users may take to be applied, and partitions to move.
APPLY_SECONDS = 600
JOIN_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Answered:
    """One interval. CPU is the server's, in microseconds a lookup."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    #: Answers that were not of the user who was asked for.
    wrong: int


class Lookups:
    """Workers that hold users."""

    def __init__(self, place: Place, users: int, seconds: float) -> None:
        self._place = place
        self._users = users
        self._seconds = seconds
        self._registry = worker_registry(place)
        self._workers: list[Worker] = []
        dice = random.Random(users)
        numbers = dice.sample(range(users), min(SAMPLE, users))
        self._sample = [WORKLOADS["new"].registration(number) for number in numbers]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run one worker until it has applied all users, for the length of a block."""
        with ExitStack() as stack:
            stack.callback(lambda: [worker.stop() for worker in self._workers])
            self._add_worker()
            wait_until(self._all_settled, APPLY_SECONDS, "all users are settled")
            yield

    def add_workers(self) -> None:
        """Let two more join."""
        self._add_worker()
        self._add_worker()
        wait_until(
            lambda: all(worker.is_ready() for worker in self._workers),
            JOIN_SECONDS,
            "all are ready",
        )

    def _add_worker(self) -> None:
        self._workers.append(worker := self._registry.worker(len(self._workers) + 1))
        worker.start()

    def _all_settled(self) -> bool:
        lines = self._workers[0].get("/metrics").text.splitlines()
        settled = (line for line in lines if line.startswith("registry_outcomes_total{"))
        return sum(float(line.rpartition(" ")[2]) for line in settled) >= self._users

    # -- at full speed

    def by_id(self) -> Answered:
        """Ask the owner for users by id, as fast as it answers."""
        owner = self._workers[0]
        return self._fastest(owner.pid, owner.port, self._by_id())

    def bare(self) -> Answered:
        """Ask a server that answers the same bytes without looking anything up."""
        place = replace(self._place, folder=self._place.folder / f"bare-{uuid.uuid4().hex}")
        with BARE_ANSWER.running(place) as running:
            assert running.url is not None
            port = int(running.url.rpartition(":")[2])
            return self._fastest(running.pid, port, self._by_id())

    def _fastest(self, pid: int, port: int, paths: Sequence[str]) -> Answered:
        tried = [self._ask(pid, port, paths, connections) for connections in CONNECTIONS]
        return max(tried, key=lambda answered: answered.per_second)

    # -- through any worker

    def through_all(self) -> list[Answered]:
        """Ask each worker for all users of the sample, half of them by email."""
        half = len(self._sample) // 2
        paths = [*self._by_id()[:half], *self._by_email()[half:]]
        return [self._ask(worker.pid, worker.port, paths, 8) for worker in self._workers]

    def forwarded(self) -> Answered:
        """Ask a worker for users that others own, at a rate."""
        asked = self._workers[0]
        here = asked.get("/users?limit=1", headers={FORWARDED_HEADER: "1"}).json()["partitions"]
        paths = [
            f"/users/{user['id']}"
            for user in self._sample
            if partition_of(user["id"].encode(), PARTITIONS) not in here
        ]
        return self._ask(asked.pid, asked.port, paths, 32, FORWARDED_PER_SECOND)

    def _by_id(self) -> list[str]:
        return [f"/users/{user['id']}" for user in self._sample]

    def _by_email(self) -> list[str]:
        return [f"/users?email={quote(user['email'])}" for user in self._sample]

    def _ask(
        self,
        pid: int,
        port: int,
        paths: Sequence[str],
        connections: int,
        rate: float | None = None,
    ) -> Answered:
        task = Task(port, paths, connections, self._seconds, rate)
        with Meter(pid) as meter:
            told, began, ended = _read(task)
            if set(told["statuses"]) != {"200"}:
                raise PeerFailed(f"answers had statuses {told['statuses']}")
            count = told["statuses"]["200"]
            cpu_us = meter.cpu_seconds(began, ended) / count * 1e6
        return Answered(
            told["per_second"], told["p50_ms"], told["p99_ms"], cpu_us, wrong=told["wrong"]
        )


def _read(task: Task) -> tuple[dict[str, Any], float, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.reader"],
        cwd=PROJECT,
        input=describe(task),
        capture_output=True,
        timeout=task.seconds + task.warm_up_seconds + 60,
        check=False,
    )
    if done.returncode:
        raise PeerFailed("the client failed", done.stderr.decode(errors="replace"))
    told: dict[str, Any] = orjson.loads(done.stdout)
    return told, told["began"], told["ended"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked in each run."""

    name: str
    label: str
    ask: Callable[[Lookups], Answered]


#: Of one worker, at full speed.
AT_FULL_SPEED: Sequence[Question] = (
    Question("ours", "by id at the owner", Lookups.by_id),
    Question("bare", "bare aiohttp answer", Lookups.bare),
)
#: Of one of three.
AT_A_RATE: Sequence[Question] = (
    Question("forwarded", f"forwarded, {FORWARDED_PER_SECOND} a second", Lookups.forwarded),
)
