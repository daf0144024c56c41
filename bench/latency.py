"""How soon a write can be read after its acknowledgement, on another worker than took it."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import requests
from confluent_kafka import Producer

from bench.errors import PeerFailed
from tests.worker import Registry, Worker

WARM_UP_ROUNDS = 50
#: A run ends after this time, however many rounds are left.
MAX_SECONDS = 25.0
#: How often a second the background load is topped up.
LOAD_STEPS = 20


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the acknowledgement until something could be read."""

    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Latencies:
    """One run: until the row was visible, and until it was settled; answers that were stale."""

    visible: Latency
    settled: Latency
    stale: int
    rounds: int


def measure(writer: Worker, reader: Worker, rounds: int) -> Latencies:
    """Write on one worker and read on another, round after round."""
    visible: list[float] = []
    settled: list[float] = []
    stale, began = 0, time.monotonic()
    for number in range(WARM_UP_ROUNDS + rounds):
        if settled and time.monotonic() - began > MAX_SECONDS:
            break
        seconds, ok = _until_visible(writer, reader)
        waited, fresh = _until_settled(writer, reader)
        if number >= WARM_UP_ROUNDS:
            visible.append(seconds)
            settled.append(waited)
            stale += (not ok) + (not fresh)
    return Latencies(_latency(visible), _latency(settled), stale, len(settled))


def _until_visible(writer: Worker, reader: Worker) -> tuple[float, bool]:
    """Ask for the row until there is one; return how long that took."""
    user_id, _, began = _write(writer)
    while True:
        answer = reader.get(f"/users/{user_id}")
        if answer.status_code == 200:
            return time.perf_counter() - began, bool(answer.json()["id"] == user_id)
        if time.perf_counter() - began > 10:
            raise PeerFailed("a user did not become visible", answer.text)


def _until_settled(writer: Worker, reader: Worker) -> tuple[float, bool]:
    """Ask for the row as it is after the write; return how long that took, and whether it is."""
    user_id, position, began = _write(writer)
    answer = reader.get(f"/users/{user_id}?after={position}")
    took = time.perf_counter() - began
    return took, answer.status_code == 200 and answer.json()["status"] == "registered"


def _write(writer: Worker) -> tuple[str, str, float]:
    user_id = uuid.uuid4().hex
    body = {"id": user_id, "name": "Ada King", "email": f"{user_id}@example.com"}
    answer = writer.post("/users", json=body)
    answer.raise_for_status()
    return user_id, answer.json()["position"], time.perf_counter()


def _latency(seconds: list[float]) -> Latency:
    ordered = sorted(seconds)

    def percentile(share: float) -> float:
        return ordered[int((len(ordered) - 1) * share)] * 1000

    return Latency(percentile(0.5), percentile(0.99), ordered[-1] * 1000)


@contextmanager
def load(registry: Registry, per_second: int) -> Iterator[None]:
    """Write so many registrations a second beside, from a producer of another kind."""
    stop = threading.Event()
    writing = threading.Thread(target=_write_steadily, args=(registry, per_second, stop.is_set))
    if per_second:
        writing.start()
    try:
        yield
    finally:
        stop.set()
        if per_second:
            writing.join()


def _write_steadily(registry: Registry, per_second: int, is_over: Callable[[], bool]) -> None:
    settings: dict[str, Any] = {
        "bootstrap.servers": registry.brokers,
        "partitioner": "murmur2_random",
        "linger.ms": 5,
    }
    producer = Producer(settings)
    prefix, written, began = uuid.uuid4().hex[:8], 0, time.monotonic()
    while not is_over():
        due = int((time.monotonic() - began) * per_second)
        for number in range(written, due):
            user_id = f"{prefix}-{number}"
            body = {"id": user_id, "name": "Load", "email": f"{user_id}@example.com"}
            producer.produce(registry.registrations, orjson.dumps(body), user_id.encode())
        written = max(written, due)
        producer.poll(1 / LOAD_STEPS)
    producer.flush(10)


def ready(*workers: Worker) -> bool:
    """Return whether all workers are ready."""
    return all(
        requests.get(f"{worker.url}/health/ready", timeout=2).status_code == 200
        for worker in workers
    )
