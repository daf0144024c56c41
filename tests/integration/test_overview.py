"""The overview of two real workers: both tell of it all, and one that is gone is named."""

import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import requests

from local.broker import Broker
from tests.support.worker import PARTITIONS, Registry, Worker, email_of, wait_until


@pytest.fixture(scope="module")
def workers(
    broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Worker, Worker]]:
    """Run two workers of a registry; the last test ends one of them."""
    registry = Registry(broker.address, tmp_path_factory.mktemp("overview"))
    with registry.worker(1) as first, registry.worker(2) as second:
        yield first, second


def overview(worker: Worker) -> dict[str, Any]:
    """Return what a worker tells of all."""
    told: dict[str, Any] = worker.get("/overview").json()
    return told


def owned(told: dict[str, Any]) -> list[int]:
    """Return the partitions that have an owner."""
    return sorted(number for worker in told["workers"] for number in worker["owned"])


def is_whole(worker: Worker) -> bool:
    """Return whether a worker tells that two own all partitions."""
    told = overview(worker)
    both = [each["owned"] for each in told["workers"]]
    return len(both) == 2 and all(both) and owned(told) == list(range(PARTITIONS))


def tells_of(worker: Worker, user_id: str) -> bool:
    """Return whether a user is among the newest."""
    return user_id in [user["id"] for user in overview(worker)["newest"]]


def test_every_worker_tells_of_all_workers(
    workers: tuple[Worker, Worker],
) -> None:
    first, second = workers
    for worker in workers:
        wait_until(partial(is_whole, worker), 30, "both own some")
    told = overview(first)
    assert [each["url"] for each in told["workers"]] == sorted([first.url, second.url])
    assert all(each["owned"] and each["standby"] for each in told["workers"])
    user_id = f"overview-{uuid.uuid4().hex}"
    first.post("/users", json={"id": user_id, "name": "Ada", "email": email_of(user_id)})
    for worker in workers:
        wait_until(partial(tells_of, worker, user_id), 10, "the user is told of")
    assert overview(second)["outcomes"] == {"registered": 1}


def test_a_worker_that_does_not_answer_is_named(workers: tuple[Worker, Worker]) -> None:
    first, second = workers
    wait_until(lambda: len(overview(first)["workers"]) == 2, 30, "both are told of")
    second.suspend()
    try:
        told = overview(first)
        assert told["unavailable"] == [second.url]
        assert [each["url"] for each in told["workers"]] == [first.url]
    finally:
        second.resume()


def test_streams_end_with_their_worker(workers: tuple[Worker, Worker]) -> None:
    first, second = workers
    with requests.get(f"{first.url}/events", stream=True, timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(lines) == b"event: history"
        assert any(line.startswith(b"data: {") for line in lines)
        assert first.stop() == 0
        for _ in lines:
            pass
    wait_until(lambda: len(overview(second)["workers"]) == 1, 10, "one is left")
