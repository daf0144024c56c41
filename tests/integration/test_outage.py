"""The broker goes and comes back: writes are refused truly, lookups go on, the worker stays."""

import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from local.broker import Broker
from local.machine import free_port
from tests.support.clients import Clients, assert_all_found
from tests.support.java import QUICK
from tests.support.worker import PARTITIONS, Registry, Worker, wait_until

ACK_SECONDS = 1.8
#: What is asked while the broker is known to be away certainly is not written.
TYPE = "urn:user-registry:problem:broker-unavailable"
#: A partition stalls after half of the time. A machine that runs tests may be late itself.
REFUSED_WITHIN_SECONDS = 3.0
#: What was under way when the broker died waits for a fence.
ANSWERED_WITHIN_SECONDS = 2 * ACK_SECONDS + 1
BACK_WITHIN_SECONDS = 5.0


@pytest.mark.parametrize(
    "seconds", [4, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]
)
def test_an_outage_under_load_refuses_writes_in_time_and_loses_nothing(
    tmp_path: Path, seconds: float
) -> None:
    broker = Broker(tmp_path / "broker", port=free_port(), java_options=QUICK)
    settings = {"ACK_TIMEOUT_SECONDS": str(ACK_SECONDS)}
    with broker, Registry(broker.address, tmp_path, settings=settings).worker() as worker:
        before, clients = worker.pid, Clients(worker)
        with clients.writing():
            wait_until(lambda: len(clients.answers) > 100, 30, "clients write")
            killed = time.monotonic()
            broker.kill()
            wait_until(lambda: time.monotonic() > killed + seconds, seconds + 5, "it is away")
            # Who cannot ask the broker does not know for long whether its tables are the newest.
            assert worker.get("/users/user-0-1").status_code in (200, 503)
            restarted = time.monotonic()
            broker.start()
            back = time.monotonic()
            wait_until(lambda: clients.accepted_since(back), 30, "a write is acknowledged again")
            came_back = time.monotonic() - back
            told = len(clients.answers)
            wait_until(lambda: len(clients.answers) > told + 100, 30, "clients go on")
        away = [a for a in clients.since(killed + REFUSED_WITHIN_SECONDS) if a.at < restarted]
        assert away
        for answer in away:
            assert (answer.status, answer.retry_after, answer.kind) == (503, "1", TYPE)
        assert max(answer.seconds for answer in clients.answers) < ANSWERED_WITHIN_SECONDS
        assert came_back < BACK_WITHIN_SECONDS
        assert worker.pid == before
        assert_all_found(worker, [a.user_id for a in clients.answers if a.status == 202])


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
        f"PARTITIONS: topic {shared_registry.registrations} has {PARTITIONS} partitions"
    )


def test_a_taken_web_port_is_one_line(shared_registry: Registry, worker: Worker) -> None:
    second = shared_registry.worker(3)
    second.port = worker.port
    assert last_line_of(second).startswith(f"WEB_PORT: cannot listen on 127.0.0.1:{worker.port}: ")


#: A worker whose port is taken after it was found to be free.
LATE_WORKER = """
from app.worker import preflight
preflight._require_addresses = lambda settings: None
from app.cli.main import main
main(["worker"])
"""


def test_a_port_that_is_taken_while_a_worker_starts_is_one_line(registry: Registry) -> None:
    late = registry.worker()
    late.command = [sys.executable, "-c", LATE_WORKER]
    with socket.create_server(("127.0.0.1", late.port)):
        late.launch()
        assert late.wait() == 1
    told = f"WEB_PORT: cannot listen on 127.0.0.1:{late.port}: Address already in use"
    log = late.log.read_text()
    assert sum(told in line for line in log.splitlines()) == 1
    assert "  File " not in log


def test_a_data_folder_in_use_is_one_line(shared_registry: Registry, worker: Worker) -> None:
    second = shared_registry.worker(4)
    second.folder = worker.folder
    assert last_line_of(second) == f"DATA_DIR: {worker.folder} is in use by another worker"


def last_line_of(worker: Worker) -> str:
    """Return the last line of a worker that ends by itself, with the status of wrong settings."""
    worker.launch()
    assert worker.wait() == 2
    return worker.log.read_text().splitlines()[-1]
