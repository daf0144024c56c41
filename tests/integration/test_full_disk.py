"""Disks are full, a worker's or the broker's: what is acknowledged is kept, the rest is refused."""

import uuid
from pathlib import Path

import pytest

from local.broker import Broker
from local.machine import free_port
from tests.support import preloaded
from tests.support.clients import Clients, assert_all_found
from tests.support.disk import full_disk
from tests.support.java import QUICK
from tests.support.worker import Registry, Worker, email_of, wait_until

#: What a worker may print before its log is full, too.
LOG_BYTES = 40_000


def register(worker: Worker) -> tuple[str, int, str]:
    """Register a user; return its id, the status of the answer and what it tells."""
    user_id = f"user-{uuid.uuid4().hex}"
    body = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
    told = worker.post("/users", json=body)
    if told.status_code == 503:
        assert told.headers["Retry-After"] == "1"
    answer = told.json()
    return user_id, told.status_code, answer.get("type", answer["status"])


def full_for(worker: Worker) -> int:
    """Return a size of files at which a worker's stores are full, but not its log."""
    return worker.log.stat().st_size + LOG_BYTES


def assert_verified(worker: Worker) -> None:
    """Fail unless ``verify`` finds no difference; the worker must not run."""
    done = preloaded.run(worker.environment, "verify", "--stores", str(worker.folder))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_worker_without_room_says_so_and_goes_on_once_there_is_some(registry: Registry) -> None:
    registry.settings = {"PARTITIONS": "1"}
    with registry.worker() as worker:
        users = [{"id": f"u{n}", "name": "N", "email": email_of(f"u{n}")} for n in range(400)]
        with full_disk(worker.pid, full_for(worker)):

            def says_why() -> bool:
                told = worker.get("/health/ready")
                return told.status_code == 503 and "File too large" in told.text

            assert worker.post("/users/batch", json=users).json()["accepted"] == len(users)
            wait_until(says_why, 10, "readiness says why")
            # Durable all the same: the topic is on another disk.
            assert register(worker)[1] == 202
        assert_all_found(worker, [user["id"] for user in users])
        wait_until(worker.is_ready, 10, "the worker is ready again")


@pytest.mark.soak
def test_a_broker_without_room_refuses_writes_and_loses_none(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker", port=free_port(), java_options=QUICK)
    settings = {"ACK_TIMEOUT_SECONDS": "1.8"}
    with broker, Registry(broker.address, tmp_path, settings=settings).worker() as worker:
        clients, before = Clients(worker), worker.pid
        with clients.writing():
            wait_until(lambda: clients.have_answers(200), 30, "clients write")
            status = broker.status()
            assert status is not None
            with full_disk(status.pid, 4096):
                # Kafka gives its only folder up, and ends.
                wait_until(broker.ending, 60, "the broker ends")
            ended = len(clients.answers)
            wait_until(lambda: clients.have_answers(ended + 50), 30, "writes are answered")
            broker.start()
            began = len(clients.accepted_since(0))
            wait_until(lambda: len(clients.accepted_since(0)) > began + 100, 60, "writes are taken")
        told = {(answer.status, answer.retry_after) for answer in clients.answers}
        assert told == {(202, None), (503, "1")}
        assert_all_found(worker, [a.user_id for a in clients.accepted_since(0)])
        wait_until(worker.is_ready, 60, "the worker is ready")
        assert worker.pid == before
    with broker:
        assert_verified(worker)
