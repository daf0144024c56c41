"""One writer that changes one id faster than it can be settled holds up nobody else."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest

from app.domain.decisions import MAX_QUEUE
from app.domain.keys import partition_of
from app.domain.positions import token
from tests.integration.test_repartition import run
from tests.support import kafka
from tests.support.worker import PARTITIONS, Registry, Worker, email_of, wait_until

#: What the writer sends at once, and how many others register behind it.
UPDATES = 400
OTHERS = 20

#: The others are behind all of the writer's records. Their own way is three hops.
SETTLED_WITHIN_SECONDS = 5.0

WRITER = "restless"
HOME = partition_of(WRITER.encode(), PARTITIONS)


@pytest.fixture
def worker(registry: Registry) -> Iterator[Worker]:
    """Run a real worker of a registry that no other test shares."""
    with registry.worker() as running:
        yield running


def neighbours(count: int) -> list[str]:
    """Return ids of the writer's partition."""
    ids = (f"neighbour-{number}" for number in range(100 * count))
    return [each for each in ids if partition_of(each.encode(), PARTITIONS) == HOME][:count]


def registration(user_id: str) -> dict[str, str]:
    """Return what registers a user."""
    return {"id": user_id, "name": "N", "email": email_of(user_id)}


def alternating(updates: int) -> list[bytes]:
    """Return updates that take one address and the other in turn."""
    emails = [email_of("one"), email_of("other")]
    return [
        orjson.dumps({"type": "update", "id": WRITER, "email": emails[number % 2]})
        for number in range(updates)
    ]


def send(registry: Registry, values: list[bytes | None]) -> None:
    """Write records of the writer straight into the topic, in one batch."""
    key = WRITER.encode()
    records = [{"key": key, "value": value, "partition": HOME} for value in values]
    kafka.produce(registry.brokers, registry.registrations, records)


def sent(registry: Registry) -> list[str]:
    """Return the positions of the writer's records."""
    return [
        token(HOME, message.offset() or 0)
        for message in kafka.read_all(registry.brokers, registry.registrations)
        if message.key() == WRITER.encode()
    ]


def told(registry: Registry) -> dict[str, str]:
    """Return what is told of the writer's records: the reason, or else the outcome."""
    values = [
        orjson.loads(message.value() or b"")
        for message in kafka.read_all(registry.brokers, registry.outcomes)
        if message.key() == WRITER.encode()
    ]
    outcomes = {each["position"]: each.get("reason", each["outcome"]) for each in values}
    assert len(outcomes) == len(values), "a record has two outcomes"
    return outcomes


def told_of_all(registry: Registry) -> dict[str, str]:
    """Return what is told of the writer's records, once that is all of them."""
    positions = set(sent(registry))

    def all_told() -> Any:
        outcomes = told(registry)
        return outcomes if outcomes.keys() >= positions else None

    outcomes: dict[str, str] = wait_until(all_told, 60, "all the writer's records have outcomes")
    assert outcomes.keys() == positions
    return outcomes


def assert_verified(registry: Registry) -> None:
    """Fail unless the tables are what the topics make of them."""
    ended = run(registry.worker(), "verify")
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    assert ended.stdout.endswith("result: clean\n")


def settled_seconds(worker: Worker, user_id: str) -> float:
    """Register a user; return how long it took until that was settled."""
    began = time.monotonic()
    answer = worker.http.post(
        f"{worker.url}/users",
        json=registration(user_id),
        headers={"Prefer": f"wait={SETTLED_WITHIN_SECONDS:.0f}"},
        timeout=30,
    )
    assert answer.status_code == 201, f"not settled: {answer.status_code} {answer.text}"
    return time.monotonic() - began


def test_one_restless_writer_holds_up_nobody_else(registry: Registry, worker: Worker) -> None:
    answer = worker.post("/users", json=registration(WRITER), headers={"Prefer": "wait=10"})
    assert answer.status_code == 201, answer.text
    send(registry, [*alternating(UPDATES)])
    with ThreadPoolExecutor(4) as clients:
        took = list(clients.map(lambda each: settled_seconds(worker, each), neighbours(OTHERS)))
    assert max(took) < SETTLED_WITHIN_SECONDS, f"{max(took):.1f} s"

    outcomes = told_of_all(registry)
    counts = Counter(outcomes.values())
    assert counts.keys() == {"registered", "updated", "too-many-pending"}, counts
    assert counts["updated"] >= 1 + MAX_QUEUE
    user = worker.wait_for_user(WRITER)
    assert user["version"] == 1 + counts["updated"]
    rejected = next(each for each, word in outcomes.items() if word == "too-many-pending")
    assert worker.get(f"/registrations/{rejected}").json() == {
        "position": rejected,
        "outcome": "rejected",
        "reason": "too-many-pending",
    }
    assert_verified(registry)


def test_a_user_can_be_erased_however_fast_others_write(registry: Registry, worker: Worker) -> None:
    first = orjson.dumps(registration(WRITER))
    send(registry, [first, *alternating(UPDATES), None, *alternating(20)])
    outcomes = told_of_all(registry)
    position = sent(registry)[1 + UPDATES]
    assert outcomes[position] == "erased"
    assert worker.get(f"/users/{WRITER}?after={position}").status_code == 404
    assert Counter(outcomes.values())["too-many-pending"] > 0
    assert_verified(registry)


def test_a_rejected_change_may_be_sent_again(registry: Registry, worker: Worker) -> None:
    """Over HTTP it is a conflict that says when to try again."""
    answer = worker.post("/users", json=registration(WRITER), headers={"Prefer": "wait=10"})
    assert answer.status_code == 201, answer.text
    statuses: Counter[int] = Counter()

    def flood() -> None:
        while not statuses[409]:
            send(registry, [*alternating(8 * MAX_QUEUE)])

    def change() -> bool:
        tried = worker.http.patch(
            f"{worker.url}/users/{WRITER}",
            json={"name": "Another"},
            headers={"Prefer": "wait=10"},
            timeout=30,
        )
        statuses[tried.status_code] += 1
        if tried.status_code != 409:
            return False
        assert tried.json()["type"] == "urn:user-registry:problem:too-many-pending"
        assert tried.headers["Retry-After"] == "1"
        return True

    with ThreadPoolExecutor(1) as others:
        flooding = others.submit(flood)
        try:
            wait_until(change, 30, "a change meets a full queue")
        finally:
            statuses[409] += 0 if statuses[409] else 1_000
    flooding.result()
    assert statuses.keys() <= {200, 409}
    told_of_all(registry)
    answer = worker.http.patch(
        f"{worker.url}/users/{WRITER}",
        json={"name": "Another"},
        headers={"Prefer": "wait=10"},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["name"]) == (200, "Another"), answer.text
