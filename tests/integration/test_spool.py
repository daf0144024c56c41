"""With a spool, a worker takes writes while the broker is away; they survive a kill -9."""

import uuid
from pathlib import Path

from local.broker import Broker
from local.machine import free_port
from tests.worker import Registry, Worker, email_of, wait_until


def register(worker: Worker) -> tuple[str, str]:
    """Register a user; return its id, and what the answer calls it (empty if refused)."""
    user_id = f"spooled-{uuid.uuid4().hex}"
    body = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
    told = worker.post("/users", json=body)
    return user_id, told.json()["status"] if told.status_code == 202 else ""


def test_what_is_spooled_survives_a_kill_and_is_applied(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker", port=free_port())
    settings = {"SPOOL_MIB": "8", "ACK_TIMEOUT_SECONDS": "1"}
    with broker:
        worker = Registry(broker.address, tmp_path, settings=settings).worker()
        with worker:
            before = [register(worker) for _ in range(5)]
            assert {word for _, word in before} == {"accepted"}
            broker.kill()
            spooled = [register(worker) for _ in range(30)]
            assert {word for _, word in spooled} == {"spooled"}
            worker.kill()
        broker.start()
        with worker:
            # The first ones of a worker with a full spool may go behind it.
            after = [register(worker) for _ in range(5)]
            assert "" not in {word for _, word in after}
            for user_id, _ in before + spooled + after:
                worker.wait_for_user(user_id, within_seconds=30)
            folder = worker.folder / "spool"
            wait_until(lambda: not list(folder.glob("*.spool")), 10, "the spool is empty")
            wait_until(lambda: register(worker)[1] == "accepted", 10, "writes go to the broker")
