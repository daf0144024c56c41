"""A worker that gets no more memory ends, with one line and a status; it does not hang."""

import resource
import threading
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from app.system.memory import EXIT_OUT_OF_MEMORY
from tests.support.worker import Registry, Worker, email_of

LINE = "out of memory: the worker ends; see docs/operations.md"
KIB, MIB = 1024, 1024 * 1024


def data_bytes(pid: int) -> int:
    """Return how much of what RLIMIT_DATA bounds a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (told,) = (line for line in lines if line.startswith("VmData:"))
    return int(told.split()[1]) * KIB


def leave(worker: Worker, more_bytes: int) -> None:
    """Let a worker have no more than it has, but for so much."""
    most = data_bytes(worker.pid) + more_bytes
    resource.prlimit(worker.pid, resource.RLIMIT_DATA, (most, most))


def write_and_read(worker: Worker, ends: threading.Event) -> None:
    """Let users register in large batches, and list them, until a worker has ended."""
    while not ends.is_set():
        users = [uuid.uuid4().hex for _ in range(4_000)]
        rows = [{"id": each, "name": "N" * 100, "email": email_of(each)} for each in users]
        with suppress(requests.RequestException):
            requests.post(f"{worker.url}/users/batch", json=rows, timeout=20)
            requests.get(f"{worker.url}/users?limit=1000", timeout=20)


def test_an_idle_worker_without_memory_ends(registry: Registry) -> None:
    registry.settings = {"PARTITIONS": "1"}
    with registry.worker() as worker:
        leave(worker, 0)
        assert worker.wait() == EXIT_OUT_OF_MEMORY
        assert worker.log.read_text().splitlines()[-1] == LINE


@pytest.mark.parametrize("more_mib", [2, 12])
def test_a_busy_worker_without_memory_ends(registry: Registry, more_mib: int) -> None:
    ends = threading.Event()
    registry.settings = {"PARTITIONS": "1"}
    with registry.worker() as worker:
        leave(worker, more_mib * MIB)
        clients = [threading.Thread(target=write_and_read, args=(worker, ends)) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            status = worker.wait()
        finally:
            ends.set()
            for client in clients:
                client.join()
        told = worker.log.read_text()
        # Compiled libraries may end a process by a signal where they get none.
        said = LINE if status == EXIT_OUT_OF_MEMORY else "Fatal Python error"
        assert status == EXIT_OUT_OF_MEMORY or status < 0, told[-2_000:]
        assert said in told, told[-2_000:]
