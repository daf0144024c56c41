"""The way to the brokers is bad: cut, slow, ended again and again. Nothing durable is lost."""

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.clients import Clients, assert_all_found
from tests.support.net import Net, bad_network
from tests.support.worker import Registry, Worker, email_of, wait_until

SESSION_SECONDS = 6
#: A batch of registrations for a client that is in a hurry, and how narrow the way is.
BATCH_USERS = 500
NARROW_BYTES_PER_SECOND = 100_000
#: How long each half of that lasts, and what a worker may take of memory.
NARROW_SECONDS, MOST_MIB = 20, 500
SETTINGS = {"SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS), "ACK_TIMEOUT_SECONDS": "1.8"}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Run a broker that is reached through a proxy."""
    with bad_network(tmp_path_factory.mktemp("far")) as running:
        yield running


def test_a_worker_that_is_cut_off_writes_nothing_and_denies_nobody(
    net: Net, tmp_path: Path
) -> None:
    near = Registry(net.broker.address, tmp_path, settings=SETTINGS)
    far = replace(near, brokers=net.far)
    with near.worker(1) as here, far.worker(2) as there:
        before = Clients(there)
        with before.writing():
            wait_until(lambda: len(before.accepted_since(0)) > 50, 30, "the far one is written to")
            net.proxy.cut()
            cut_at = time.monotonic()
            wait_until(lambda: not there.is_ready(), 30, "the far one is not ready")
            meanwhile = Clients(here, "late")
            with meanwhile.writing():
                wait_until(lambda: meanwhile.accepted_since(cut_at), 40, "the near one goes on")
                wait_until(lambda: len(meanwhile.answers) > 100, 40, "it is written to")
        wait_until(here.is_ready, 40, "the near one has all partitions")
        late = before.since(cut_at + 3)
        assert {(answer.status, bool(answer.retry_after)) for answer in late} <= {(503, True)}
        ids = [a.user_id for a in (*before.answers, *meanwhile.answers) if a.status == 202]
        assert_all_found(here, ids)
        # Of those whom others registered meanwhile, it says that it does not know.
        news = [answer.user_id for answer in meanwhile.answers if answer.status == 202][-20:]
        told = {there.get(f"/users/{user_id}").status_code for user_id in news}
        assert told <= {200, 503}
        net.proxy.mend()
        wait_until(there.is_ready, 60, "the far one is back")
        assert_all_found(there, ids)


@pytest.mark.soak
def test_connections_that_end_again_and_again_lose_nothing(net: Net, tmp_path: Path) -> None:
    with Registry(net.far, tmp_path, settings=SETTINGS).worker() as worker:
        clients = Clients(worker)
        with clients.writing():
            for ends in range(1, 21):
                wait_until(partial(clients.have_answers, 20 * ends), 30, f"round {ends}")
                net.proxy.reset()
        assert {answer.status for answer in clients.answers} <= {202, 503}
        assert_all_found(worker, [a.user_id for a in clients.answers if a.status == 202])


@pytest.mark.soak
def test_a_slow_way_slows_down_and_loses_nothing(net: Net, tmp_path: Path) -> None:
    with Registry(net.far, tmp_path, settings=SETTINGS).worker() as worker:
        net.proxy.delay_seconds = 0.1
        try:
            clients = Clients(worker)
            with clients.writing():
                wait_until(lambda: len(clients.accepted_since(0)) > 200, 60, "writes are taken")
            assert worker.is_ready()
            assert_all_found(worker, [a.user_id for a in clients.answers if a.status == 202])
        finally:
            net.proxy.delay_seconds = 0.0


def write_batches(worker: Worker, stopped: threading.Event) -> tuple[list[str], set[int]]:
    """Register users in batches until stopped; return who was accepted, and all statuses."""
    accepted: list[str] = []
    statuses: set[int] = set()
    with requests.Session() as session:
        while not stopped.is_set():
            ids = [uuid.uuid4().hex for _ in range(BATCH_USERS)]
            users = [{"id": i, "name": "Ada" * 50, "email": email_of(i)} for i in ids]
            told = session.post(f"{worker.url}/users/batch", json=users, timeout=60)
            statuses.add(told.status_code)
            if told.status_code == 503:
                assert told.headers["Retry-After"]
                continue
            answer = told.json()
            rejected = {each["index"] for each in answer["rejected"]}
            assert answer["accepted"] == len(ids) - len(rejected)
            accepted += [i for n, i in enumerate(ids) if n not in rejected]
    return accepted, statuses


def most_memory(worker: Worker, clients: Clients) -> int:
    """Return the most MiB that a worker takes during some seconds in which it answers."""
    process, most, until = psutil.Process(worker.pid), 0, time.monotonic() + NARROW_SECONDS
    while time.monotonic() < until:
        most = max(most, process.memory_info().rss >> 20)
        wait_until(partial(clients.have_answers, len(clients.answers) + 1), 20, "it answers")
    return most


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_narrow_way_slows_down_in_bounded_memory_and_loses_nothing(
    net: Net, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "MAX_WAITING_MIB": "4"}
    with Registry(net.far, tmp_path, settings=settings).worker() as worker:
        stopped, clients = threading.Event(), Clients(worker)
        with ThreadPoolExecutor(4) as pool:
            net.proxy.bytes_per_second = NARROW_BYTES_PER_SECOND
            try:
                writing = [pool.submit(write_batches, worker, stopped) for _ in range(4)]
                with clients.writing():
                    most = [most_memory(worker, clients) for _ in range(2)]
            finally:
                net.proxy.bytes_per_second = None
                stopped.set()
            told = [each.result() for each in writing]
        single = {(a.status, bool(a.retry_after)) for a in clients.answers}
        assert single <= {(202, False), (503, True)}, single
        assert max(answer.seconds for answer in clients.answers) < 5
        # What waits has its limits: they are soon reached, and then it grows no more.
        assert most[1] < most[0] * 1.3
        assert most[1] < MOST_MIB
        after = Clients(worker, "after")
        with after.writing():
            wait_until(lambda: len(after.accepted_since(0)) > 100, 60, "writes are taken again")
        wait_until(worker.is_ready, 60, "the worker is ready")
        ids = [i for accepted, _ in told for i in accepted]
        ids += [a.user_id for a in clients.accepted_since(0) + after.accepted_since(0)]
        # For docs/operations.md.
        print(f"{len(ids)} accepted; statuses of batches: {[statuses for _, statuses in told]}")  # noqa: T201
        print(f"single: {len(clients.answers)}, most MiB in each half: {most}")  # noqa: T201
        assert_all_found(worker, ids[:1000] + ids[-1000:])
