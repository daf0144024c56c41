"""A burst of ten times what a worker admits: the surplus is refused, and nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.worker import Registry, Worker, wait_until

RATE = 500


def burst(worker: Worker, folder: Path, seconds: float) -> dict[str, Any]:
    """Offer ten times the rate over some seconds; return the report of `load`."""
    command = [sys.executable, "-m", "app", "load", worker.url, "--rate", str(10 * RATE)]
    options = ["--duration", str(seconds), "--warmup", "0", "--connections", "64"]
    done = subprocess.run(
        [*command, *options, "--keep-ids", str(folder / "ids"), "--json", "-"],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    "seconds", [3, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]
)
def test_a_burst_is_taken_at_the_rate_and_refused_truly(
    registry: Registry, tmp_path: Path, seconds: float
) -> None:
    registry.settings = {"MAX_WRITES_PER_SECOND": str(RATE)}
    with registry.worker() as worker:
        process = psutil.Process(worker.pid)
        before = process.memory_info().rss
        told = burst(worker, tmp_path, seconds)
        grown_mib = (process.memory_info().rss - before) / 2**20
        ids = (tmp_path / "ids").read_text().split()
        # A second's worth at once, and then the rate.
        assert 0.8 * RATE * seconds <= len(ids) <= RATE * (seconds + 1.2)
        # The short form shares the machine with other tests; the long one has it for itself.
        if seconds >= 30:
            assert told["response_ms"]["p99"] < 1_000
        assert told["refused"], told
        for status, refused in told["refused"].items():
            assert status in ("429", "503")
            assert refused["with_retry_after"] == refused["requests"] > 0
        assert not told["errors"], told
        assert grown_mib < 100
        wait_until(lambda: not missing(worker, ids), 60, "every accepted user is in the table")


def missing(worker: Worker, ids: list[str]) -> list[str]:
    """Return the ids that no user is found under, of a sample that has the first and the last."""
    step = max(len(ids) // 500, 1)
    return [i for i in (*ids[::step], ids[-1]) if worker.get(f"/users/{i}").status_code != 200]
