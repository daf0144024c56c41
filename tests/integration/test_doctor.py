"""``python -m app doctor`` on a real broker with a real worker: what it says, and its status."""

import json
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.access.files import write_keys
from app.access.keys import new_key
from app.access.scopes import Scope
from local.machine import free_port
from tests.support import preloaded
from tests.support.worker import PARTITIONS, Registry, Worker, email_of, wait_until


def run(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return how a command of the app ended."""
    return preloaded.run(environment, *arguments)


def doctor(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return how a look at everything ended."""
    return run(environment, "doctor", *arguments)


def create_topic(registry: Registry, partitions: int, retention_ms: int) -> None:
    """Create the topic of the registrations otherwise than a worker does."""
    name, config = registry.registrations, {"retention.ms": str(retention_ms)}
    admin = AdminClient({"bootstrap.servers": registry.brokers})
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(10)


def findings(ended: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return what the command has found."""
    assert ended.stderr == ""
    found: list[dict[str, Any]] = json.loads(ended.stdout)["findings"]
    return found


def problems(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the problems that the command has found."""
    return [each["what"] for each in findings(ended) if each["mark"] == "problem"]


def topics_of(registry: Registry) -> list[str]:
    """Return the names of a registry's topics that there are."""
    admin = AdminClient({"bootstrap.servers": registry.brokers})
    return [name for name in admin.list_topics(timeout=10).topics if registry.app_id in name]


def test_a_worker_that_runs_has_no_problems(worker: Worker, shared_registry: Registry) -> None:
    user_id = f"doctor-{time.time_ns()}"
    worker.post("/users", json={"id": user_id, "name": "Ada", "email": email_of(user_id)})
    worker.wait_for_user(user_id)
    ended = doctor(worker.environment, "--json")
    assert (ended.returncode, problems(ended)) == (0, [])
    told = {(each["area"], each["what"]) for each in findings(ended)}
    assert ("worker", f"the worker on 127.0.0.1:{worker.port} is ready") in told
    assert ("clock", "the worker's clock and this one show the same time") in told
    assert (
        "topics",
        f"{shared_registry.registrations}: {PARTITIONS} partitions, copies: 1, delete after 168 h",
    ) in told
    group = next(each for each in findings(ended) if each["area"] == "group")
    assert group["what"] == (
        f"the group {shared_registry.app_id}: 1 members, with partitions: {3 * PARTITIONS}"
    )
    assert {each["area"] for each in findings(ended)} == {
        "settings", "versions", "disk", "open files", "clock", "rights",
        "keys", "certificates", "worker", "brokers",
        "topics", "group",
    }  # fmt: skip


def test_what_was_applied_does_not_wait(worker: Worker, shared_registry: Registry) -> None:
    def waits() -> list[str]:
        told = findings(doctor(worker.environment, "--json"))
        return [each["what"] for each in told if each["area"] == "group"][1:]

    nothing = [f"{topic}: nothing waits" for topic in shared_registry.sources]
    wait_until(lambda: waits() == nothing, 20, "nothing waits")


def test_before_the_first_start_there_are_warnings_only_and_nothing_is_made(
    registry: Registry,
) -> None:
    environment = registry.worker().environment
    ended = doctor(environment)
    assert ended.returncode == 0, ended.stdout
    assert "none of the registry's topics is there yet" in ended.stdout
    assert f"no worker is in the group {registry.app_id}" in ended.stdout
    assert topics_of(registry) == []
    assert not Path(environment["DATA_DIR"]).exists()


def test_topics_that_differ_from_the_settings_are_problems(registry: Registry) -> None:
    create_topic(registry, PARTITIONS - 1, 60_000)
    ended = doctor(registry.worker().environment, "--json")
    assert ended.returncode == 1
    told = problems(ended)
    name = registry.registrations
    assert f"{name} has {PARTITIONS - 1} partitions, and PARTITIONS is {PARTITIONS}" in told
    assert f"{name}: retention.ms is 60000, not 604800000" in told
    assert f"{registry.outcomes} is not there" in told


def test_what_is_advised_for_a_topic_helps(registry: Registry) -> None:
    create_topic(registry, PARTITIONS, 60_000)
    environment = registry.worker().environment
    assert f"{registry.registrations}: retention.ms is 60000, not 604800000" in problems(
        doctor(environment, "--json")
    )
    assert run(environment, "topics").returncode == 0
    ended = doctor(environment, "--json")
    assert (ended.returncode, problems(ended)) == (0, [])


def test_a_broker_that_is_away_is_one_line_and_soon_told(registry: Registry) -> None:
    away = {"KAFKA_BROKERS": f"127.0.0.1:{free_port()}"}
    began = time.monotonic()
    ended = doctor({**registry.worker().environment, **away}, "--json")
    # Other commands wait up to 14 s.
    assert time.monotonic() - began < 10
    assert ended.returncode == 1
    (told,) = problems(ended)
    assert told == f"{away['KAFKA_BROKERS']} does not answer (ConnectionRefusedError)"


def test_a_key_that_has_expired_is_told_of(registry: Registry, tmp_path: Path) -> None:
    keys_file = tmp_path / "keys.json"
    _, made = new_key("old", frozenset({Scope.ADMIN}), None)
    end = datetime.now(UTC) - timedelta(days=1)
    write_keys(keys_file, (made.model_copy(update={"expires_at": end}),))
    more = {"KEYS_FILE": str(keys_file), "EMAIL_SECRET": "a secret of the tests"}
    ended = doctor({**registry.worker().environment, **more}, "--json")
    told = [each for each in findings(ended) if each["area"] == "keys"]
    assert ended.returncode == 1
    assert [each["mark"] for each in told] == ["warning", "problem"]
    assert told[0]["what"] == f"key old has expired, on {end:%Y-%m-%d %H:%M} UTC"
    assert "keys create" in told[1]["advice"]


def test_a_port_that_something_else_holds_is_a_problem(
    registry: Registry, broker_port: int
) -> None:
    ended = doctor({**registry.worker().environment, "WEB_PORT": str(broker_port)}, "--json")
    assert ended.returncode == 1
    (told,) = problems(ended)
    assert told.startswith(f"who listens on 127.0.0.1:{broker_port} gives no worker's answer")


@pytest.fixture
def broker_port(registry: Registry) -> int:
    """Return a port that something listens on that is no worker."""
    return int(registry.brokers.rpartition(":")[2])


def test_wrong_settings_are_told_of_in_one_line(registry: Registry) -> None:
    ended = doctor({**registry.worker().environment, "PARTITIONS": "0"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "PARTITIONS: must be at least 1 (got 0)\n"
