"""A registry gets more partitions while clients write: nothing is lost, and nothing forgotten."""

import logging
import signal
import subprocess
from pathlib import Path

import orjson
import pytest
import requests

from app.worker.repartitioning import SILENT_SECONDS
from local.broker import Broker
from tests.support import preloaded
from tests.support.clients import Writers, assert_all_found
from tests.support.worker import Registry, Worker, email_of, is_fresh, wait_until

log = logging.getLogger(__name__)

#: A write waits while workers start anew, which takes a busy machine some seconds.
PATIENCE_SECONDS = 40.0


def run(
    worker: Worker, *arguments: str, within_seconds: float = 60, given: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a command of the registry to its end; it may be given lines to read."""
    return preloaded.run(worker.environment, *arguments, given=given, within_seconds=within_seconds)


def begin(
    worker: Worker, *arguments: str, until: str = "writes are held"
) -> "subprocess.Popen[str]":
    """Start a command, and return once it says something: that writes are held."""
    begun = subprocess.Popen(
        [*worker.command[:-1], *arguments],
        env=worker.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert begun.stdout is not None
    assert any(until in line for line in begun.stdout)
    return begun


def register(worker: Worker, user_id: str) -> requests.Response:
    """Register a user."""
    body = {"id": user_id, "name": "A", "email": email_of(user_id)}
    return worker.post("/users", json=body, headers={"Prefer": "wait=10"})


def is_taken(worker: Worker, user_id: str) -> bool:
    """Return whether a user is registered, now or before."""
    return register(worker, user_id).status_code in (200, 201)


def is_refused(worker: Worker, user_id: str) -> bool:
    """Return whether a write is refused, as the registry is being repartitioned."""
    answer = register(worker, user_id)
    return answer.status_code == 503 and "repartitioned" in answer.json()["detail"]


def test_what_is_not_finished_has_changed_nothing(broker: Broker, tmp_path: Path) -> None:
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "2"})
    with registry.worker() as worker:
        assert register(worker, "first").status_code == 201
        interrupted = begin(worker, "repartition", "4")
        interrupted.send_signal(signal.SIGINT)
        said, _ = interrupted.communicate(timeout=20)
        assert (interrupted.returncode, said) == (130, "interrupted: nothing has changed\n")
        wait_until(lambda: is_taken(worker, "second"), 10, "writes go on")

        killed = begin(worker, "repartition", "4")
        wait_until(lambda: is_refused(worker, "third"), 10, "writes are held")
        killed.kill()
        killed.communicate()
        assert run(worker, "repartition").stdout.splitlines()[0] == "2 partitions"
        for command in (("recover", "gap"), ("backup", str(tmp_path / "backup"))):
            ended = run(worker, *command)
            assert (ended.returncode, ended.stdout) == (2, "")
            assert ended.stderr == (
                "the registry is being repartitioned or saved; if that is no more: "
                "python -m app repartition --back\n"
            )
        given_up = run(worker, "repartition", "--back")
        assert (given_up.returncode, given_up.stdout) == (0, "given up: nothing has changed\n")
        wait_until(lambda: is_taken(worker, "third"), 10, "writes go on")

        refused = run(worker, "repartition", "3")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith("the registry has 2 partitions, and each is split into as")
        verified = run(worker, "verify")
        assert verified.returncode == 0, verified.stdout


@pytest.mark.soak
@pytest.mark.timeout(240)
def test_workers_give_up_what_nobody_goes_on_with(broker: Broker, tmp_path: Path) -> None:
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "2"})
    with registry.worker(1) as worker, registry.worker(2) as other:
        killed = begin(worker, "repartition", "4")
        wait_until(lambda: is_refused(other, "two"), 10, "writes are held")
        killed.kill()
        killed.communicate()
        wait_until(
            lambda: is_taken(worker, "one") and is_taken(other, "two"),
            SILENT_SECONDS + 20,
            "workers have given it up",
        )
        assert run(worker, "repartition").stdout == "2 partitions\n"
        assert run(worker, "repartition", "4").returncode == 0


@pytest.mark.soak
def test_a_worker_that_is_asked_to_end_while_it_restarts_ends(
    broker: Broker, tmp_path: Path
) -> None:
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "1"})
    with registry.worker() as worker:
        changing = begin(worker, "repartition", "2")
        wait_until(lambda: "this worker restarts" in worker.log.read_text(), 20, "it restarts")
        assert worker.stop() in (0, -signal.SIGTERM)
        changing.kill()
        changing.communicate()


@pytest.mark.timeout(180)
def test_more_partitions_while_clients_write(broker: Broker, tmp_path: Path) -> None:
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "2"})
    with registry.worker(1) as first, registry.worker(2) as second:
        early = first.post("/users", json={"id": "early", "name": "A", "email": "a@example.com"})
        with Writers([first, second], PATIENCE_SECONDS) as writers:
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
        counted = second.get("/counts").json()
        assert counted["users"] == len({"early", *writers.accepted})
        assert run(first, "repartition").stdout.startswith("6 partitions")
        verified = run(first, "verify")
        assert verified.returncode == 0, verified.stdout


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_half_a_million_users_from_4_to_16_partitions_under_load(
    broker: Broker, tmp_path: Path
) -> None:
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "4"})
    with registry.worker(1) as first, registry.worker(2) as second:
        ids = [f"many-{number}" for number in range(500_000)]
        for begins in range(0, len(ids), 5_000):
            rows = (
                {"id": i, "name": "A", "email": email_of(i)} for i in ids[begins : begins + 5_000]
            )
            body = b"\n".join(map(orjson.dumps, rows))
            headers = {"Content-Type": "application/x-ndjson"}
            taken = first.post("/users/batch", data=body, headers=headers)
            assert taken.json()["accepted"] == 5_000, taken.text
        wait_until(lambda: is_fresh(first.get(f"/users/{ids[-1]}")), 120, "all are applied")
        with Writers([first, second], PATIENCE_SECONDS) as writers:
            wait_until(lambda: len(writers.accepted) > 500, 30, "clients write")
            done = run(first, "repartition", "16", within_seconds=300)
            assert (done.returncode, done.stderr) == (0, ""), done
            count = len(writers.accepted)
            wait_until(lambda: len(writers.accepted) > count + 500, 60, "clients write again")
        log.info("%s; %s; longest %.1f s", done.stdout, writers.told, writers.longest)
        assert writers.failed == []
        second.http.close()
        assert_all_found(second, writers.accepted[::10])
        assert_all_found(second, ids[::5_000])
        verified = run(first, "verify", within_seconds=300)
        log.info("%s", verified.stdout)
        assert verified.returncode == 0, verified.stdout
