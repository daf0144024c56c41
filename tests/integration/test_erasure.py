"""An erased user leaves nothing but registrations, which are kept for a time of their own."""

import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from app.domain.keys import partition_of
from local.broker import Broker
from tests.support import kafka
from tests.support.worker import PARTITIONS, Registry, Worker, wait_until

#: A worker that looks after its files all the time, not a few times a day.
TIDY_WORKER = """
import app.config.registry
app.config.registry.TIDY_TIMES = 2 * 3600  # of ERASE_WITHIN_HOURS=2: each second
from app.cli.main import main
main(["worker"])
"""

#: A compacted topic whose segments are full at once, and cleaned as soon as they are.
AT_ONCE = {
    "segment.ms": "100",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "1",
    "min.cleanable.dirty.ratio": "0.0001",
    "delete.retention.ms": "0",
}


@pytest.fixture
def worker(broker: Broker, registry: Registry) -> Iterator[Worker]:
    """Run a worker whose compacted topics are compacted at once."""
    backoff = "log.cleaner.backoff.ms"
    kafka.alter_broker(registry.brokers, {backoff: "100"})
    registry.settings = {"ERASE_WITHIN_HOURS": "2"}
    made = registry.worker()
    made.command = [sys.executable, "-c", TIDY_WORKER]
    with made:
        for topic in compacted(registry):
            kafka.alter_config(registry.brokers, topic, AT_ONCE)
        yield made
    # Otherwise the broker would be busy with cleaning from now on.
    kafka.delete_topics(registry.brokers, compacted(registry))
    kafka.alter_broker(registry.brokers, {backoff: "15000"})


def compacted(registry: Registry) -> tuple[str, ...]:
    """Return the topics that are compacted."""
    return registry.users_changelog, registry.emails_changelog, registry.dead_letters


def places(registry: Registry, worker: Worker, secret: str) -> set[str]:
    """Return where a text stands: in which topics, decompressed, and in which kinds of files.

    Files may be compressed: any long part of the text counts.
    """
    parts = [secret[start : start + 12].encode() for start in range(0, len(secret) - 11, 4)]

    def shows(data: bytes | None) -> bool:
        return any(part in (data or b"") for part in parts)

    found = {
        topic.removeprefix(f"{registry.app_id}.")
        for topic in (*registry.sources, registry.outcomes, *compacted(registry))
        for message in kafka.read_all(registry.brokers, topic)
        if shows(message.key())
        or shows(message.value())
        or any(shows(header) for header in kafka.headers(message).values())
    }
    for path in worker.folder.rglob("*"):
        if path.is_file() and shows(path.read_bytes()):
            found.add("worker.log" if path.name == "worker.log" else "stores")
    return found


def test_an_erased_user_is_found_in_the_registrations_only(
    registry: Registry, worker: Worker
) -> None:
    user_id = f"user-{uuid.uuid4().hex}"
    secret = f"{uuid.uuid4().hex}{uuid.uuid4().hex}"[:60]
    user = {"id": user_id, "name": "N", "email": f"{secret}@example.com"}
    home = partition_of(user_id.encode(), PARTITIONS)
    letter = {"value": orjson.dumps(user | {"name": 7}), "key": user_id.encode()}
    kafka.produce(registry.brokers, registry.registrations, [letter | {"partition": home}])
    write(worker, "POST", "/users", 201, json=user)
    write(worker, "PATCH", f"/users/{user_id}", 200, json={"name": "Another"})
    everywhere = {"user-registrations", "user-registrations-dead-letter", "stores"}
    everywhere.add(f"{registry.app_id}-users-changelog")
    wait_until(lambda: places(registry, worker, secret) == everywhere, 20, "the user is there")

    write(worker, "DELETE", f"/users/{user_id}", 200)
    assert worker.get(f"/users/{user_id}").status_code == 404
    assert worker.get("/users", params={"email": user["email"]}).status_code == 404
    assert user_id not in worker.get("/registrations").text

    rolling = {"value": b"nobody's nonsense", "partition": home}

    def only_in_registrations() -> bool:
        # What is written last in a segment begins the next one.
        kafka.produce(registry.brokers, registry.registrations, [rolling])
        time.sleep(0.2)  # segments are full after this time, not after so many records
        return places(registry, worker, secret) == {"user-registrations"}

    wait_until(only_in_registrations, 60, "nothing of the user is left")
    assert places(registry, worker, user_id) <= {
        *(topic.removeprefix(f"{registry.app_id}.") for topic in registry.sources),
        "registration-outcomes",
        "stores",
    }


def write(worker: Worker, method: str, path: str, status: int, **more: Any) -> None:
    """Write, and wait until it is settled."""
    answer = worker.http.request(
        method, worker.url + path, headers={"Prefer": "wait=10"}, timeout=15, **more
    )
    assert answer.status_code == status, answer.text
