"""A registry gets more partitions while clients write: nothing is lost, and nothing forgotten."""

import logging
import subprocess
from pathlib import Path

import pytest

from local.broker import Broker
from tests.clients import Writers, assert_all_found
from tests.worker import Registry, Worker, wait_until

log = logging.getLogger(__name__)


def run(worker: Worker, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the registry to its end."""
    return subprocess.run(
        [*worker.command[:-1], *arguments],
        env=worker.environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.timeout(180)
def test_more_partitions_while_clients_write(broker: Broker, tmp_path: Path) -> None:
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "2"})
    with registry.worker(1) as first, registry.worker(2) as second:
        early = first.post("/users", json={"id": "early", "name": "A", "email": "a@example.com"})
        with Writers([first, second]) as writers:
            wait_until(lambda: len(writers.accepted) > 300, 30, "clients write")
            done = run(first, "repartition", "6")
            assert (done.returncode, done.stderr) == (0, ""), done
            count = len(writers.accepted)
            wait_until(lambda: len(writers.accepted) > count + 300, 60, "clients write again")
        log.info("%s; %s; longest %.1f s", done.stdout, writers.told, writers.longest)
        assert writers.failed == []
        second.http.close()  # its connections were to the process before
        assert_all_found(second, writers.accepted)
        told = second.get(early.headers["Location"]).json()
        assert told["outcome"] == "registered", told
        taken = second.post(
            "/users",
            json={"id": "late", "name": "B", "email": "a@example.com"},
            headers={"Prefer": "wait=10"},
        )
        assert taken.json()["type"].endswith("email-taken")
        assert run(first, "repartition").stdout.startswith("6 partitions")
        verified = run(first, "verify")
        assert verified.returncode == 0, verified.stdout
