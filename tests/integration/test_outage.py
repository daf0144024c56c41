"""The broker goes and comes back: writes are refused truly, lookups go on, the worker stays."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import requests

from local.broker import Broker
from local.machine import free_port
from tests.worker import Registry, Worker, email_of, wait_until

TYPES = {f"urn:user-registry:problem:{name}" for name in ("broker-unavailable", "outcome-unknown")}
CLIENTS = 8
#: What the product promises is 2 s; a machine that runs tests may be late itself.
REFUSED_WITHIN_SECONDS = 3.0
BACK_WITHIN_SECONDS = 5.0


@dataclass
class Answer:
    """What a client was told, when it asked, and how long it waited."""

    user_id: str
    at: float
    seconds: float
    status: int
    retry_after: str | None
    kind: str


@dataclass
class Clients:
    """Clients that register users one after another, until they are stopped."""

    worker: Worker
    answers: list[Answer] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write while this lasts."""
        threads = [threading.Thread(target=self._write, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def _write(self, client: int) -> None:
        with requests.Session() as session:
            number = 0
            while not self.stopped.wait(0.01):
                number += 1
                self._register(session, f"user-{client}-{number}")

    def _register(self, session: requests.Session, user_id: str) -> None:
        body = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
        began = time.monotonic()
        told = session.post(f"{self.worker.url}/users", json=body, timeout=20)
        seconds = time.monotonic() - began
        kind = told.json().get("type", "")
        after = told.headers.get("Retry-After")
        self.answers.append(Answer(user_id, began, seconds, told.status_code, after, kind))

    def since(self, moment: float) -> list[Answer]:
        """Return the answers to what was asked since a moment."""
        return [answer for answer in self.answers if answer.at >= moment]

    def accepted_since(self, moment: float) -> list[Answer]:
        """Return those of them that say that a write is durable."""
        return [answer for answer in self.since(moment) if answer.status == 202]


@pytest.mark.parametrize(
    "seconds", [4, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]
)
def test_an_outage_under_load_refuses_writes_in_time_and_loses_nothing(
    tmp_path: Path, seconds: float
) -> None:
    broker = Broker(tmp_path / "broker", port=free_port())
    settings = {"ACK_TIMEOUT_SECONDS": "1.8"}
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
            assert (answer.status, answer.retry_after, answer.kind in TYPES) == (503, "1", True)
        assert max(answer.seconds for answer in clients.since(killed)) < REFUSED_WITHIN_SECONDS
        assert came_back < BACK_WITHIN_SECONDS
        assert worker.pid == before
        assert_all_found(worker, [a.user_id for a in clients.answers if a.status == 202])


def assert_all_found(worker: Worker, ids: list[str]) -> None:
    """Fail unless every user is found soon."""

    def missing() -> list[str]:
        return [i for i in ids if worker.get(f"/users/{i}").status_code != 200]

    wait_until(lambda: not missing(), 60, "every acknowledged user is found")


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
