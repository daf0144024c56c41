"""The broker goes and comes back: writes are refused truly, lookups go on, the worker stays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from local.broker import Broker
from local.machine import free_port
from tests.worker import Registry, Worker, email_of, wait_until

TYPES = {f"urn:user-registry:problem:{name}" for name in ("broker-unavailable", "outcome-unknown")}


def post(worker: Worker, user_id: str) -> requests.Response:
    """Register a user."""
    body = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
    return worker.post("/users", json=body)


def test_an_outage_refuses_writes_and_loses_nothing(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker", port=free_port())
    with broker:
        registry = Registry(broker.address, tmp_path, settings={"ACK_TIMEOUT_SECONDS": "1"})
        with registry.worker() as worker:
            before = worker.pid
            post(worker, "before")
            worker.wait_for_user("before")
            broker.kill()
            refused = post(worker, "during")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert refused.json()["type"] in TYPES
            assert worker.get("/users/before").status_code == 200
            assert refused.elapsed.total_seconds() < 5
            broker.start()
            assert_writes_again(worker)
            assert worker.pid == before
            post(worker, "during")
            worker.wait_for_user("during", within_seconds=30)


def assert_writes_again(worker: Worker) -> None:
    """Fail unless a write is soon acknowledged, and then found."""

    def accepted() -> Any:
        return post(worker, "after").status_code == 202

    wait_until(accepted, 30, "a write is acknowledged after the outage")
    worker.wait_for_user("after", within_seconds=30)


def test_a_worker_without_a_broker_ends_with_one_line(tmp_path: Path) -> None:
    worker = Registry(f"127.0.0.1:{free_port()}", tmp_path).worker()
    worker.launch()
    assert worker.wait() == 2
    (line,) = worker.log.read_text().splitlines()
    assert line.startswith("KAFKA_BROKERS: no usable answer from 127.0.0.1:")


def test_another_number_of_partitions_on_existing_topics_is_one_line(
    shared_registry: Registry, worker: Worker
) -> None:
    changed = replace(shared_registry, settings={"PARTITIONS": "12"}).worker(2)
    assert last_line_of(changed).startswith(
        f"PARTITIONS: topic {shared_registry.registrations} has 8 partitions"
    )


def test_a_taken_web_port_is_one_line(shared_registry: Registry, worker: Worker) -> None:
    second = shared_registry.worker(3)
    second.port = worker.port
    assert last_line_of(second).startswith(f"WEB_PORT: cannot listen on 127.0.0.1:{worker.port}: ")


def test_a_data_folder_in_use_is_one_line(shared_registry: Registry, worker: Worker) -> None:
    second = shared_registry.worker(4)
    second.folder = worker.folder
    assert last_line_of(second) == f"DATA_DIR: {worker.folder} is in use by another worker"


def last_line_of(worker: Worker) -> str:
    """Return the last line of a worker that ends by itself, with the status of wrong settings."""
    worker.launch()
    assert worker.wait() == 2
    return worker.log.read_text().splitlines()[-1]
