"""Workers of a machine behind one address, as `make run` starts them: spread, crash, restart."""

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import requests

from app.query.worker_client import FORWARDED_HEADER
from app.web.api.lookups import STALE_HEADER
from local.broker import Broker
from local.folder import DataFolder
from local.machine import HOST, free_port
from local.places import PROJECT
from tests.support.documents import outside
from tests.support.worker import email_of, wait_until
from tools.load import Options, Report, drive

log = logging.getLogger(__name__)

READY_SECONDS = 90
STOP_SECONDS = 20
#: A rolling restart takes less.
ROLLING_SECONDS = 300


def ended(*command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a module of the project to its end."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=PROJECT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


class Machine:
    """Workers that share an address; run by a supervisor of its own."""

    def __init__(self, folder: Path, brokers: str, workers: int) -> None:
        self.numbers = range(1, workers + 1)
        self.port = free_port(count=1 + workers)
        self.url = f"http://{HOST}:{self.port}"
        self.folder = DataFolder(folder / "data")
        self.output = folder / "output"
        name = f"address-{uuid.uuid4().hex[:8]}"
        self.env = outside() | {
            "ACK_TIMEOUT_SECONDS": "5",
            "APP_ID": name,
            "DATA_DIR": str(self.folder.path),
            "KAFKA_BROKERS": brokers,
            "STOP_GRACE_SECONDS": "1",
            "TOPIC_PREFIX": f"{name}.",
            "WEB_PORT": str(self.port),
            "WORKERS": str(workers),
        }
        self._run: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run the supervisor until all workers are ready."""
        with self.output.open("wb") as output:
            self._run = subprocess.Popen(
                [sys.executable, "-m", "local", "run"],
                cwd=PROJECT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_until(self._is_ready, READY_SECONDS, "the workers are ready")

    def _is_ready(self) -> bool:
        assert self._run is not None
        said = self.output.read_text()
        assert self._run.poll() is None, said
        return "Ctrl-C\n" in said

    def stop(self) -> None:
        """End everything."""
        if self._run is not None:
            self._run.send_signal(signal.SIGTERM)
            assert self._run.wait(STOP_SECONDS) == 0

    def command(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the Makefile's."""
        return ended("local", name, env=self.env)

    def own(self, number: int) -> str:
        """Return the internal address of a worker."""
        return f"http://{HOST}:{self.port + number}"

    def pid(self, number: int) -> int:
        """Return the process of a worker."""
        process = self.folder.worker_record(number).find()
        assert process is not None
        return process.pid

    def is_ready(self, number: int) -> bool:
        """Return whether a worker is ready."""
        try:
            return requests.get(f"{self.own(number)}/health/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def answers(self, number: int) -> dict[str, float]:
        """Return how many requests a worker has answered, by status."""
        told = requests.get(f"{self.own(number)}/metrics", timeout=5).text
        found = re.findall(r'^registry_http_responses_total\{status="(\d+)"\} (\S+)$', told, re.M)
        return {status: float(count) for status, count in found}

    def forwarded(self) -> float:
        """Return how many questions workers have asked each other."""
        told = [requests.get(f"{self.own(n)}/metrics", timeout=5).text for n in self.numbers]
        found = [re.search(r'forwarded_total\{result="answered"\} (\S+)', each) for each in told]
        return sum(float(each[1]) for each in found if each)


@pytest.fixture(scope="module")
def machine(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Return two workers behind one address."""
    machine = Machine(tmp_path_factory.mktemp("address"), broker.address, 2)
    machine.start()
    yield machine
    machine.stop()


def new_ids(count: int) -> Sequence[str]:
    """Return ids that no other test has."""
    return [f"{uuid.uuid4().hex}-{number}" for number in range(count)]


def register(machine: Machine, user_id: str) -> int:
    """Register a user over a connection of its own; return the status of the answer."""
    command = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
    return requests.post(f"{machine.url}/users", json=command, timeout=15).status_code


def test_one_address_is_told_and_reaches_every_worker(machine: Machine) -> None:
    said = machine.output.read_text()
    assert set(re.findall(rf"http://{HOST}:\d+", said)) == {machine.url}
    before = [machine.answers(number).get("202", 0) for number in machine.numbers]
    assert {register(machine, user_id) for user_id in new_ids(60)} == {202}
    after = [machine.answers(number).get("202", 0) for number in machine.numbers]
    shares = [late - early for early, late in zip(before, after, strict=True)]
    assert sum(shares) == 60
    assert min(shares) > 0


def test_status_names_the_address_and_those_of_the_workers(machine: Machine) -> None:
    told = machine.command("status")
    assert told.returncode == 0
    ports = re.findall(r"^(\S+) running: process \d+, port (\d+)$", told.stdout, re.M)
    assert ports == [
        ("supervisor", str(machine.port)),
        ("worker-1", str(machine.port + 1)),
        ("worker-2", str(machine.port + 2)),
    ]


def test_a_lookup_is_forwarded_to_the_internal_address(machine: Machine) -> None:
    ids = new_ids(20)
    assert {register(machine, user_id) for user_id in ids} == {202}
    before = machine.forwarded()

    def all_found() -> bool:
        answers = [requests.get(f"{machine.url}/users/{each}", timeout=15) for each in ids]
        return all(a.status_code == 200 and STALE_HEADER not in a.headers for a in answers)

    wait_until(all_found, 30, "all are found")
    assert machine.forwarded() > before


def test_an_internal_address_serves_workers_and_who_watches_only(machine: Machine) -> None:
    own = machine.own(1)
    assert requests.get(f"{own}/health/live", timeout=5).status_code == 200
    refused = requests.get(f"{own}/users/ada", timeout=5)
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (421, "misdirected")
    command = {"id": "eve", "name": "Eve", "email": "eve@example.com"}
    marked = {FORWARDED_HEADER: "1"}
    assert requests.post(f"{own}/users", json=command, headers=marked, timeout=5).status_code == 421
    asked = requests.get(f"{own}/users?id=nobody", headers=marked, timeout=5)
    assert asked.status_code in (404, 503)


def test_the_metrics_of_all_workers_are_found_at_the_one_address(machine: Machine) -> None:
    answer = requests.get(f"{machine.url}/metrics/targets", timeout=5)
    assert answer.headers["Content-Type"] == "application/json"
    (group,) = answer.json()
    assert group["targets"] == [f"{HOST}:{machine.port + number}" for number in machine.numbers]
    for target in group["targets"]:
        told = requests.get(f"http://{target}/metrics", timeout=5)
        assert "registry_build_info" in told.text


def test_another_registry_on_the_address_is_one_line(machine: Machine, tmp_path: Path) -> None:
    env = machine.env | {"DATA_DIR": str(tmp_path / "other")}
    second = ended("local", "run", env=env)
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()
    assert line.startswith(f"port {machine.port}")
    alone = machine.env | {"DATA_DIR": str(tmp_path / "alone")}
    third = ended("app", "worker", env=alone)
    assert third.returncode == 2
    assert f"WEB_PORT: cannot listen on {HOST}:{machine.port}" in third.stderr


def test_a_killed_worker_takes_no_acknowledged_write_along(machine: Machine) -> None:
    acknowledged: list[str] = []
    told: Counter[str] = Counter()
    is_over = threading.Event()

    def write(client: int) -> None:
        for user_id in new_ids(10_000):
            if is_over.is_set():
                return
            try:
                status = register(machine, user_id)
            except requests.ConnectionError:
                told["cut"] += 1
            else:
                told[str(status)] += 1
                acknowledged.extend([user_id] * (status == 202))

    writing = [threading.Thread(target=write, args=(client,)) for client in range(6)]
    for thread in writing:
        thread.start()
    try:
        wait_until(lambda: len(acknowledged) > 100, 30, "clients write")
        os.kill(machine.pid(1), signal.SIGKILL)
        known = len(acknowledged)
        # Long before the killed one is back, new connections lead to the other one.
        wait_until(lambda: len(acknowledged) > known + 30, 30, "clients go on")
        wait_until(lambda: machine.is_ready(1), READY_SECONDS, "the killed one is back")
    finally:
        is_over.set()
        for thread in writing:
            thread.join()
    # Only what the killed process had accepted is cut off: no more than there are clients.
    assert told["cut"] <= len(writing)
    assert told.keys() <= {"202", "503", "cut"}
    with requests.Session() as session:

        def missing() -> list[str]:
            asked = [
                session.get(f"{machine.url}/users/{each}", timeout=15) for each in acknowledged
            ]
            return [
                each for each, a in zip(acknowledged, asked, strict=True) if a.status_code != 200
            ]

        wait_until(lambda: not missing(), 60, "all that was acknowledged is there")


async def rolled(machine: Machine, rate: float) -> Report:
    """Restart all workers one after the other; return what clients met meanwhile."""
    former = [machine.pid(number) for number in machine.numbers]
    stop = asyncio.Event()

    async def restart() -> subprocess.CompletedProcess[str]:
        try:
            return await asyncio.to_thread(machine.command, "restart")
        finally:
            stop.set()

    restarting = asyncio.create_task(restart())
    options = Options(url=machine.url, rate=rate, warmup=0, duration=ROLLING_SECONDS)
    report = await drive(options, stop=stop)
    done = await restarting
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Restarted."), done
    assert not set(former) & {machine.pid(number) for number in machine.numbers}
    log.info(
        "%d requests at %.0f a second (asked for: %.0f), %d failed; p50/p99/max %s ms",
        *(report.requests, report.requests_per_second, rate),
        report.requests - report.acknowledged,
        report.response_ms,
    )
    return report


def test_a_rolling_restart_fails_no_request(machine: Machine) -> None:
    report = asyncio.run(rolled(machine, 100))
    assert (report.refused, report.errors, report.rejected) == ({}, {}, 0)
    assert report.acknowledged == report.requests > 100


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_rolling_restart_of_four_workers_at_full_rate(broker: Broker, tmp_path: Path) -> None:
    four = Machine(tmp_path, broker.address, 4)
    four.start()
    try:
        report = asyncio.run(rolled(four, float(os.environ.get("ROLLING_RATE", "2000"))))
    finally:
        four.stop()
    assert (report.refused, report.errors, report.rejected) == ({}, {}, 0)
    assert report.acknowledged == report.requests
