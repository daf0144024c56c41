"""Records that most clients cannot read stop nobody: each is a dead letter with its cause."""

import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.domain.keys import partition_of
from local.broker import Broker
from tests.integration.test_dead_letters import fresh, home_of, listed, registration, run
from tests.integration.test_repartition import run as run_to_end
from tests.support import kafka
from tests.support.hand_made_batches import NAME_TO_SPOIL, bomb, send, with_bad_name
from tests.support.worker import PARTITIONS, Registry, Worker, wait_until

#: The bomb: so many values of so many bytes, and what a worker that reads them may take.
BOMB_VALUES, BOMB_VALUE_BYTES = 1_500, 900_000
MAX_RSS_BYTES = 600 * 1024 * 1024
BOMB_SECONDS = 60


@pytest.fixture(scope="module")
def spoiled(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Return a registry that this module's tests share."""
    return Registry(broker.address, tmp_path_factory.mktemp("spoiled"))


@pytest.fixture(scope="module")
def running(spoiled: Registry) -> Iterator[Worker]:
    """Run a worker of it."""
    with spoiled.worker() as started:
        yield started


def spoil(registry: Registry, topic: str, partition: int, value: bytes, key: bytes = b"k") -> int:
    """Write a record with a header name that is not UTF-8, between two others of its batch."""
    now = int(time.time() * 1000)
    headers: list[tuple[str, bytes | None]] = [("trace", b"t"), (NAME_TO_SPOIL, b"1")]
    rows = [
        (0, now, b"k", b"before", []),
        (1, now, key, value, headers),
        (2, now, b"k", b"behind", []),
    ]
    return send(registry.brokers, topic, partition, with_bad_name(rows)) + 1


def register(registry: Registry, worker: Worker, partition: int) -> None:
    """Register somebody in a partition, and wait for it: what came before was passed."""
    user_id = next(each for each in iter(fresh, "") if home_of(each) == partition)
    value = registration(user_id)
    kafka.produce(registry.brokers, registry.registrations, [{"value": value}])
    worker.wait_for_user(user_id, 20)


def letters(registry: Registry, cause: str, topic: str | None = None) -> list[dict[str, Any]]:
    """Return the letters of a cause, of one topic."""
    found = listed(registry, "--where", f"cause={cause}")
    return [each for each in found if each["topic"] == (topic or registry.registrations)]


def verify(registry: Registry) -> str:
    """Return what `verify` says; fail if it finds a difference."""
    ended = run_to_end(registry.worker(), "verify", within_seconds=120)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    return ended.stdout


def test_a_header_name_that_is_not_utf_8_is_a_letter_in_each_source(
    spoiled: Registry, running: Worker
) -> None:
    user_id = fresh()
    home = home_of(user_id)
    value = registration(user_id)
    register(spoiled, running, home)
    at = spoil(spoiled, spoiled.registrations, home, value)
    spoil(spoiled, spoiled.email_claims, home, b'{"type":"claim"}')
    spoil(spoiled, spoiled.email_decisions, home, b"{}")
    register(spoiled, running, home)
    for topic in spoiled.sources:
        found = partial(letters, spoiled, "unreadable-header", topic)
        assert len(wait_until(found, 10, f"a letter of {topic}")) == 1
    (letter,) = letters(spoiled, "unreadable-header")
    (record,) = [
        message
        for message in kafka.read_all(spoiled.brokers, spoiled.dead_letters)
        if (message.key() or b"").decode() == f"{spoiled.registrations}/{letter['position']}"
    ]
    assert record.value() == value
    assert "original-headers" in kafka.headers(record)
    shown = run(spoiled, "show", letter["position"]).stdout
    assert f"offset: {at}" in shown
    assert r"header \xff\xfename: 1" in shown
    assert "header trace: t" in shown
    assert "result: clean" in verify(spoiled)


def test_such_a_letter_is_replayed_by_force_without_these_headers(
    spoiled: Registry, running: Worker
) -> None:
    user_id = fresh()
    spoil(spoiled, spoiled.registrations, home_of(user_id), registration(user_id))
    where = ("--where", f"id={user_id}")
    (letter,) = wait_until(lambda: listed(spoiled, *where), 10, "the letter is there")
    refused = run(spoiled, "replay", letter["position"])
    assert (refused.exit_code, "cannot be read: unreadable-header" in refused.stdout) == (1, True)
    done = run(spoiled, "replay", letter["position"], "--force")
    assert done.exit_code == 0, done.output
    running.wait_for_user(user_id)


def test_in_a_wrong_partition_it_goes_home_and_is_erased_with_its_id(
    spoiled: Registry, running: Worker
) -> None:
    user_id = fresh()
    wrong = (home_of(user_id) + 1) % PARTITIONS
    spoil(spoiled, spoiled.registrations, wrong, registration(user_id))
    where = ("--where", f"id={user_id}")
    (letter,) = wait_until(lambda: listed(spoiled, *where), 10, "the letter is there")
    assert letter["cause"] == "unreadable-header"
    shown = run(spoiled, "show", letter["position"]).stdout
    assert f"partition: {home_of(user_id)}" in shown
    assert r"header \xff\xfename: 1" in shown
    answer = running.http.delete(f"{running.url}/users/{user_id}", headers={"Prefer": "wait=10"})
    assert answer.status_code == 200
    assert listed(spoiled, *where) == []
    assert "result: clean" in verify(spoiled)


def peak_rss(worker: Worker) -> int:
    """Return the most memory that a worker has had, in bytes."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.timeout(240)
def test_a_batch_that_unpacks_to_much_more_than_memory_is_passed(
    spoiled: Registry, running: Worker
) -> None:
    zeros = bytes(BOMB_VALUE_BYTES)
    made = bomb((zeros for _ in range(BOMB_VALUES)), int(time.time() * 1000))
    before = len(letters(spoiled, "invalid-json"))
    send(spoiled.brokers, spoiled.registrations, 3, made)
    user_id = next(each for each in iter(fresh, "") if partition_of(each.encode(), PARTITIONS) == 3)
    value = orjson.dumps({"id": user_id, "name": "N", "email": f"{user_id}@example.com"})
    kafka.produce(spoiled.brokers, spoiled.registrations, [{"value": value}])
    running.wait_for_user(user_id, BOMB_SECONDS)
    assert peak_rss(running) < MAX_RSS_BYTES
    assert len(letters(spoiled, "invalid-json")) == before + BOMB_VALUES
