"""Every route of a live worker does what /openapi.json says of it."""

import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.access.files import write_keys
from app.access.keys import new_key
from app.access.scopes import Scope
from local.broker import Broker
from tests.support.worker import Registry, Worker

CONFIGURATION = Path(__file__).parents[1] / "schemathesis.toml"

#: A machine that stands still for a while costs no lease, and so no 503: none would be a finding.
PATIENT = {"SESSION_TIMEOUT_SECONDS": "60"}
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def worker(broker: Broker, tmp_path: Path) -> Iterator[Worker]:
    """Run a worker without keys."""
    with Registry(broker.address, tmp_path, settings=PATIENT).worker() as running:
        yield running


def findings(worker: Worker, folder: Path, *options: str) -> str:
    """Let schemathesis look for differences; return what it prints if it finds any."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)]
    done = subprocess.run(
        [*command, "run", f"{worker.url}/openapi.json", "--no-color", "--seed", "1", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert re.search(r"Tested: +28$", done.stdout, re.MULTILINE), done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout


def test_nothing_is_found(worker: Worker, tmp_path: Path) -> None:
    found = findings(worker, tmp_path, "--phases", "coverage,fuzzing", "--max-examples", "25")
    assert not found, found
    assert "Traceback" not in worker.log.read_text()


def test_nothing_is_found_where_keys_are_asked_for(broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, kept = new_key("schemathesis", frozenset({Scope.ADMIN}), None)
    write_keys(path, (kept,))
    settings = {**PATIENT, "KEYS_FILE": str(path), "EMAIL_SECRET": uuid.uuid4().hex}
    with Registry(broker.address, tmp_path, settings=settings).worker() as worker:
        options = ("--phases", "fuzzing", "--max-examples", "5")
        found = findings(worker, tmp_path, "-H", f"Authorization: Bearer {key}", *options)
        assert not found, found
        assert "Traceback" not in worker.log.read_text()


@pytest.mark.soak
def test_nothing_is_found_by_many_examples(worker: Worker, tmp_path: Path) -> None:
    found = findings(worker, tmp_path, "--phases", "coverage,fuzzing", "--max-examples", "500")
    assert not found, found
    assert "Traceback" not in worker.log.read_text()
