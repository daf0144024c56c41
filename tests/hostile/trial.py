"""One attack on a worker, and how those beside it fare: ``python -m tests.hostile`` tries all."""

import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import psutil
import requests

from local.places import PROJECT
from tests.support.worker import Worker, email_of, wait_until

#: Descriptors and memory (in KiB) that a worker has to do with.
OPEN_FILES, MEMORY_KIB = 256, 512 * 1024
#: What stores keep in memory is not what an attack has left there.
SETTINGS = {"CACHE_MIB": "16", "WRITE_BUFFER_MIB": "16"}
EVERY_SECONDS = 0.05
#: How long an honest client waits for one answer, and tries one request; and its pauses. Of a flood
#: of connections the kernel drops some, which the client finds out by waiting.
ANSWER_SECONDS, PATIENCE_SECONDS, PAUSE_SECONDS = 5.0, 20.0, 0.05
#: How long a worker may take to apply what an attack has written, and to free what it has cost.
CALM_SECONDS = 120.0
MIB = 1024 * 1024
#: Where attacks come from: as a rule not where the honest client is, at 127.0.0.1.
ELSEWHERE = "127.0.0.2"


@dataclass(slots=True)
class Result:
    """How a worker and its honest client fared; memory in MiB, times in ms."""

    attack: str
    live_ms: list[float] = field(default_factory=list)
    write_ms: list[float] = field(default_factory=list)
    #: How many requests of the honest client were made more than once.
    retried: int = 0
    failures: list[str] = field(default_factory=list)
    before_mib: float = 0.0
    peak_mib: float = 0.0
    grown_mib: float = 0.0

    def line(self) -> str:
        """Return it in a line."""
        return (
            f"{self.attack:<42} live p50 {_percentile(self.live_ms, 50):5.0f} p99 "
            f"{_percentile(self.live_ms, 99):5.0f} ms; {len(self.write_ms):4} writes p99 "
            f"{_percentile(self.write_ms, 99):5.0f} ms, {self.retried} retried; "
            f"peak {self.peak_mib:.0f}, grown {self.grown_mib:.0f} MiB {self.failures or ''}"
        )

    @property
    def live_p99_ms(self) -> float:
        """The slowest answers of /health/live, but for one in a hundred."""
        return _percentile(self.live_ms, 99)


def _percentile(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def limited(worker: Worker) -> Worker:
    """Let a worker have few descriptors and little memory, once it is started."""
    limits = f'ulimit -n {OPEN_FILES} && ulimit -d {MEMORY_KIB} && exec "$@"'
    worker.command = ["sh", "-c", limits, "worker", *worker.command]
    return worker


def fill(worker: Worker, users: int) -> None:
    """Register users, so that lists and exports have something to show."""
    rows = "".join(
        f'{{"id":"filled-{n}","name":"Filled","email":"filled-{n}@example.com"}}\n'
        for n in range(users)
    )
    kind = {"Content-Type": "application/x-ndjson"}
    told = worker.post("/users/batch", data=rows, headers=kind)
    assert told.json() == {"accepted": users, "rejected": []}
    worker.wait_for_user(f"filled-{users - 1}", CALM_SECONDS)


def attempt(attack: str, worker: Worker, seconds: float, address: str = ELSEWHERE) -> Result:
    """Attack a worker for so long, with an honest client and a probe beside it."""
    result = Result(attack, before_mib=_memory_mib(worker))
    over = threading.Event()
    beside = [
        threading.Thread(target=_repeat, args=(over, each, result))
        for each in (
            lambda: _probe(worker, result),
            lambda: _write_and_look_up(worker, result),
            lambda: _weigh(worker, result),
        )
    ]
    command = [sys.executable, "-m", "tests.hostile.attacks", attack, str(worker.port)]
    with subprocess.Popen([*command, str(seconds), address], cwd=PROJECT) as attacking:
        for thread in beside:
            thread.start()
        try:
            attacking.wait(seconds + PATIENCE_SECONDS)
        finally:
            over.set()
            attacking.kill()
            for thread in beside:
                thread.join()
    if worker.has_ended:
        result.failures.append("the worker has ended")
        return result

    def is_calm() -> bool:
        result.grown_mib = _memory_mib(worker) - result.before_mib
        return result.grown_mib < 50

    for condition, what in (
        # What an attack has written holds up whoever comes next.
        (partial(is_applied, worker), "what was written is applied"),
        (is_calm, "memory is free again"),
    ):
        try:
            wait_until(condition, CALM_SECONDS, what)
        except AssertionError as error:
            result.failures.append(str(error))
    return result


def is_applied(worker: Worker) -> bool:
    """Return whether nothing waits to be applied."""
    lines = worker.get("/metrics").text.splitlines()
    return all(line.endswith(" 0.0") for line in lines if line.startswith("registry_lag_records{"))


def _memory_mib(worker: Worker) -> float:
    return psutil.Process(worker.pid).memory_info().rss / MIB


def _repeat(over: threading.Event, each: Callable[[], None], result: Result) -> None:
    while not over.wait(EVERY_SECONDS):
        try:
            each()
        except Exception as error:
            result.failures.append(f"{type(error).__name__}: {error}"[:200])
            return


def _weigh(worker: Worker, result: Result) -> None:
    if not worker.has_ended:
        result.peak_mib = max(result.peak_mib, _memory_mib(worker))


def _probe(worker: Worker, result: Result) -> None:
    began = time.monotonic()
    _patiently(lambda: requests.get(f"{worker.url}/health/live", timeout=ANSWER_SECONDS), result)
    result.live_ms.append((time.monotonic() - began) * 1_000)


def _write_and_look_up(worker: Worker, result: Result) -> None:
    user_id = uuid.uuid4().hex
    body = {"id": user_id, "name": "Honest", "email": email_of(user_id)}
    url = f"{worker.url}/users"
    began = time.monotonic()
    told = _patiently(lambda: requests.post(url, json=body, timeout=ANSWER_SECONDS), result)
    result.write_ms.append((time.monotonic() - began) * 1_000)
    after = {"after": told.json()["position"]}
    found = _patiently(
        lambda: requests.get(f"{url}/{user_id}", params=after, timeout=ANSWER_SECONDS), result
    )
    assert found.json()["id"] == user_id


def _patiently(ask: Callable[[], requests.Response], result: Result) -> requests.Response:
    """Ask as a client that tries again what is refused, for a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    tries = 0
    while True:
        tries += 1
        try:
            answer = ask()
            if answer.status_code in (200, 202):
                result.retried += tries > 1
                return answer
            why = f"{answer.status_code} {answer.text[:100]}"
        except requests.RequestException as error:
            why = type(error).__name__
        assert time.monotonic() < deadline, f"not served in {PATIENCE_SECONDS:.0f} s: {why}"
        time.sleep(PAUSE_SECONDS)
