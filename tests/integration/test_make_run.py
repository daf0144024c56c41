"""`make run` as a user meets it: on a terminal, with a real Kafka and a real worker."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.folder import DataFolder
from local.machine import HOST, free_port
from local.places import PROJECT
from tests.support.terminal import CTRL_C, Terminal

MAKES_OWN = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"}
READY_SECONDS = 60
STOP_SECONDS = 10
VISIBLE_SECONDS = 15
READY = "stop      Ctrl-C\n"
USER = {"id": "ada", "name": "Ada Lovelace", "email": "ada@example.org"}


class Machine:
    """A data folder and ports of a test's own, on which `make` is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = DataFolder(folder / "data")
        self.web_port = free_port(count=3)
        # Make's own variables would tell the make that is tested that another one called it.
        outside = {name: value for name, value in os.environ.items() if name not in MAKES_OWN}
        self.env = outside | {
            # The port between them is the worker's own.
            "BROKER_PORT": str(self.web_port + 2),
            "DATA_DIR": str(self.folder.path),
            "KAFKA_BROKERS": "",
            "PARTITIONS": "4",
            "WEB_PORT": str(self.web_port),
        }

    def run(self) -> Terminal:
        return Terminal("make", "run", cwd=PROJECT, env=self.env)

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", target], cwd=PROJECT, env=self.env, capture_output=True, text=True, check=False
        )

    def register(self, user: dict[str, str]) -> int:
        """Register a user, and return the status of the answer."""
        return self._ask("/users", json.dumps(user).encode())[0]

    def look_up(self, user_id: str) -> dict[str, Any]:
        """Return a user, once the registry knows it."""
        deadline = time.monotonic() + VISIBLE_SECONDS
        while time.monotonic() < deadline:
            status, body = self._ask(f"/users/{user_id}")
            if status == 200:
                return dict(json.loads(body))
            time.sleep(0.05)
        raise AssertionError(f"{user_id} is not visible: {status} {body!r}")

    def _ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        url = f"http://{HOST}:{self.web_port}{path}"
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            request = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a place for one registry; nothing of it outlives the test."""
    machine = Machine(tmp_path)
    yield machine
    machine.make("stop")


def test_a_registry_lives_through_runs_and_crashes(machine: Machine) -> None:
    """One story, as each start of Kafka takes its seconds."""
    with machine.run() as first:
        first.wait_for(READY, READY_SECONDS)
        assert f"http://{HOST}:{machine.web_port}/" in first.shown
        assert machine.register(USER) in {201, 202}
        assert machine.look_up("ada").items() >= USER.items()
        assert machine.make("status").returncode == 0
        first.type(CTRL_C)
        assert first.process.wait(STOP_SECONDS) == 0
        assert machine.make("status").returncode != 0

    with machine.run() as second:
        second.wait_for(READY, READY_SECONDS)
        assert machine.look_up("ada").items() >= USER.items()
        beside = machine.make("run")
        assert beside.returncode != 0
        assert "already running (process" in beside.stderr
        supervisor = machine.folder.supervisor.find()
        assert supervisor is not None
        supervisor.send_signal(signal.SIGKILL)
        assert second.process.wait(STOP_SECONDS) != 0

    with machine.run() as third:
        third.wait_for(READY, READY_SECONDS)
        assert "Stopped workers that an earlier run left (process" in third.shown
        assert "Keeping Kafka, which an earlier run left (process" in third.shown
        assert machine.look_up("ada").items() >= USER.items()
        assert machine.make("stop").stdout == "Stopped.\n"
        assert third.process.wait(STOP_SECONDS) == 0
        assert "Traceback" not in first.shown + second.shown + third.shown
