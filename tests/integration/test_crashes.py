"""Crashes: what was acknowledged is found, whatever ended the worker or its disk."""

import contextlib
import shutil
import signal
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from app.domain.keys import encode_key, partition_of
from tests.support.worker import PARTITIONS, Registry, Worker, email_of, session, wait_until

CLIENTS = 8
RECENT = 20


def write_until_refused(worker: Worker, client: int, most: int) -> list[str]:
    """Register users one after the other; return the acknowledged ids."""
    acknowledged: list[str] = []
    with session() as http:
        for number in range(most):
            user_id = f"c{client}-{number}-{uuid.uuid4().hex[:6]}"
            body = {"id": user_id, "name": "N", "email": email_of(user_id)}
            try:
                answer = http.post(f"{worker.url}/users", json=body, timeout=15)
            except requests.RequestException:
                break
            if answer.status_code == 202:
                acknowledged.append(user_id)
    return acknowledged


def write_from_many_clients_and_kill(worker: Worker, kill_after: int) -> list[str]:
    """Write from several clients; kill -9 the worker once enough is in the table."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        writing = [
            clients.submit(write_until_refused, worker, number, 10_000) for number in range(CLIENTS)
        ]
        wait_until(lambda: offered(worker) >= kill_after, 60, "enough is written")
        assert worker.kill() == -signal.SIGKILL
        return [user_id for client in writing for user_id in client.result()]


def offered(worker: Worker) -> int:
    """Return about how many registrations a worker's client 0 has got through, times clients."""
    listed = worker.get("/registrations").json()["users"]
    numbers = [int(user["id"].split("-")[1]) for user in listed]
    return max(numbers, default=0) * CLIENTS


def test_every_acknowledged_id_is_found_after_a_kill_in_the_middle_of_writing(
    registry: Registry,
) -> None:
    worker = registry.worker()
    worker.start()
    acknowledged = write_from_many_clients_and_kill(worker, kill_after=800)
    assert len(acknowledged) >= 400
    with worker:
        assert_all_found(worker, acknowledged)


def test_a_lost_disk_is_recovered_from_the_changelog(registry: Registry) -> None:
    worker = registry.worker()
    worker.start()
    ids = write_until_refused(worker, 0, 300)
    for user_id in ids:
        worker.wait_for_user(user_id)
    newest = worker.get("/registrations").json()["users"]
    before = {user_id: worker.get(f"/users/{user_id}").json() for user_id in ids}
    worker.kill()
    shutil.rmtree(worker.folder)
    with worker:
        assert {user_id: worker.get(f"/users/{user_id}").json() for user_id in ids} == before
        assert worker.get("/registrations").json()["users"] == newest
        assert len(newest) == RECENT


def test_a_stopped_worker_finishes_what_it_acknowledged_and_exits_cleanly(
    registry: Registry,
) -> None:
    worker = registry.worker()
    worker.start()
    ids = write_until_refused(worker, 0, 200)
    assert worker.stop() == 0
    assert "Traceback" not in worker.log.read_text()
    with worker:
        assert_all_found(worker, ids)


def test_fausts_own_command_line_runs_the_same_worker(registry: Registry) -> None:
    worker = registry.worker()
    worker.command = [sys.executable, "-m", "faust", "-A", "app.main", "worker", "--loglevel=info"]
    with worker:
        body = {"id": "ada", "name": "Ada", "email": "ada@example.com"}
        assert worker.post("/users", json=body).status_code == 202
        worker.wait_for_user("ada", within_seconds=30)


#: A worker that tells on which loop it runs.
LOOP_TELLING_WORKER = """
import asyncio
from app.system.memory import Memory
async def tell(self): print("runs on", type(asyncio.get_running_loop()), flush=True)
Memory.on_start = tell
from app.cli.main import main
main(["worker"])
"""


def test_a_worker_runs_on_the_fast_loop(registry: Registry) -> None:
    worker = registry.worker()
    worker.command = [sys.executable, "-c", LOOP_TELLING_WORKER]
    with worker:
        assert "runs on <class 'app.system.loop.Loop'>" in worker.log.read_text()


#: A worker whose loop fails at its first batch, as a defect of ours might make it.
FAILING_WORKER = """
from app.deciding import Deciding
def fail(*_): raise ValueError("about ada@example.com")
Deciding.decide_registrations = fail
from app.cli.main import main
main(["worker"])
"""


def test_a_defect_in_the_loop_ends_the_worker_and_costs_no_record(registry: Registry) -> None:
    failing = registry.worker()
    failing.command = [sys.executable, "-c", FAILING_WORKER]
    failing.start()
    body = {"id": "ada", "name": "Ada", "email": "ada@example.com"}
    assert failing.post("/users", json=body).status_code == 202
    assert failing.wait() == 1
    log = failing.log.read_text()
    assert "records cannot be applied; the worker ends" in log
    assert "ada@example.com" not in log
    with registry.worker() as worker:
        worker.wait_for_user("ada", within_seconds=30)


#: A worker whose consumer waits for ever for something that no longer comes, once it has begun.
STUCK_WORKER = """
import asyncio
from aiokafka.consumer.group_coordinator import GroupCoordinator
async def stuck(*_): await asyncio.Event().wait()
joined = GroupCoordinator._on_join_complete
async def join(self, *args):
    await joined(self, *args)
    asyncio.get_running_loop().call_later(3, setattr, GroupCoordinator, "_send_req", stuck)
GroupCoordinator._on_join_complete = join
from app.cli.main import main
main(["worker"])
"""


@pytest.mark.soak
def test_a_stuck_consumer_ends_its_worker_within_30_s(registry: Registry) -> None:
    stuck = registry.worker()
    stuck.command = [sys.executable, "-c", STUCK_WORKER]
    stuck.start()
    assert stuck.wait(within_seconds=30 + 10) == 1
    assert "the consumer is stuck, though all brokers answer" in stuck.log.read_text()


def test_any_worker_takes_any_write_and_answers_any_lookup(registry: Registry) -> None:
    with registry.worker(1) as one, registry.worker(2) as two:
        wait_until(lambda: one.is_ready() and two.is_ready(), 30, "both workers are ready")
        ids = write_until_refused(one, 1, 40) + write_until_refused(two, 2, 40)
        assert len({partition_of(encode_key(user_id), PARTITIONS) for user_id in ids}) == PARTITIONS
        for user_id in ids:
            one.wait_for_user(user_id)
        assert_all_found(one, ids)
        assert_all_found(two, ids)
        assert two.get("/users/nobody").status_code == 404
        lists = [{u["id"] for u in w.get("/registrations").json()["users"]} for w in (one, two)]
        assert lists[0] == lists[1]
        assert len(lists[0]) == RECENT


def assert_all_found(worker: Worker, ids: list[str], within_seconds: float = 30) -> None:
    """Fail unless a lookup finds every id, soon."""
    missing = set(ids)

    def none_missing() -> bool:
        for user_id in sorted(missing):
            answer = worker.get(f"/users/{user_id}")
            if answer.status_code == 200:
                missing.discard(user_id)
        return not missing

    with contextlib.suppress(AssertionError):
        wait_until(none_missing, within_seconds, "every acknowledged user is found")
    assert not missing, f"{len(missing)} of {len(ids)} not found; log: {worker.log}"
