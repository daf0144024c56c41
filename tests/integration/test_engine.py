"""The engine in real workers: crashes at each step, a zombie, a full disk, workers come and go."""

import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from app.domain.keys import encode_key, partition_of
from tests.faults.steps import Kind
from tests.support import kafka, preloaded
from tests.support.worker import PARTITIONS, Registry, Worker, is_fresh, wait_until

#: The shortest that Kafka allows.
SESSION_SECONDS = 6
#: From the end of a dead worker's session until all its partitions answer elsewhere.
TAKEOVER_SECONDS = 4


def produce(registry: Registry, users: int) -> list[str]:
    """Write registrations, some twice, and a few in wrong partitions or unreadable."""
    ids = [f"user-{uuid.uuid4().hex[:12]}" for _ in range(users)]
    values = [orjson.dumps({"id": i, "name": "N", "email": f"{i}@example.com"}) for i in ids]
    records = [{"key": i.encode(), "value": value} for i, value in zip(ids, values, strict=True)]
    kafka.produce(registry.brokers, registry.registrations, records, partitioner="murmur2_random")
    strays: list[dict[str, object]] = [{"value": value} for value in values[::20]]
    strays += [{"value": b"not json", "partition": n} for n in range(PARTITIONS)]
    kafka.produce(registry.brokers, registry.registrations, strays)
    return ids


SOUND_COMMAND = [sys.executable, "-m", "app", "worker"]


#: Where a worker dies, and at which time that it comes there. One transaction may apply everything
#: that waits, and another one commits the offsets of control records.
DEATHS = (
    ("the transaction is ended", Kind.KILL_BEFORE, 1),
    ("the transaction is ended", Kind.KILL_AFTER, 2),
    ("rows are written to a store", Kind.KILL_BEFORE, PARTITIONS + 2),
    ("where the changelog begins", Kind.KILL_BEFORE, PARTITIONS + 2),
)


def faulty_command(*words: object) -> list[str]:
    """Return what starts a worker with a fault."""
    return [sys.executable, "-m", "tests.support.faulty_worker", *map(str, words)]


def nothing_is_left(registry: Registry) -> bool:
    """Return whether the group has committed the ends of all partitions."""
    before = ends(registry)
    done = all(
        kafka.committed(registry.brokers, registry.app_id, topic) == of_topic
        for topic, of_topic in before.items()
    )
    # One topic's records come of another's.
    return done and ends(registry) == before


def ends(registry: Registry) -> dict[str, dict[int, int]]:
    """Return where the partitions end that have records, of each topic that is consumed."""
    return {
        topic: {n: end for n, end in kafka.end_offsets(registry.brokers, topic).items() if end}
        for topic in registry.sources
    }


def assert_verified(worker: Worker, *arguments: str) -> None:
    """Fail unless ``verify`` finds no difference."""
    done = preloaded.run(worker.environment, "verify", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_rows(registry: Registry, ids: Sequence[str]) -> None:
    """Fail unless there is a row for each id, and no other."""
    rows = kafka.users(registry.brokers, registry.users_changelog)
    assert set(rows) == {user_id.encode() for user_id in ids}


def test_a_crash_while_applying_or_taking_over_leaves_the_tables_right(registry: Registry) -> None:
    worker = registry.worker()
    assert (
        subprocess.run(
            [sys.executable, "-m", "app", "topics"],
            env=worker.environment,
            stdout=subprocess.DEVNULL,
            check=False,
        ).returncode
        == 0
    )
    ids: list[str] = []
    for death in DEATHS:
        ids += produce(registry, 400)
        worker.command = faulty_command(*death)
        worker.launch()
        assert worker.wait() == -signal.SIGKILL, death
    worker.command = SOUND_COMMAND
    with worker:
        wait_until(lambda: nothing_is_left(registry), 20, "everything is applied")
    assert_rows(registry, ids)
    assert_verified(worker, "--stores", str(worker.folder))


def test_a_worker_that_owns_all_that_a_user_needs_settles_it_in_one_transaction(
    registry: Registry,
) -> None:
    with registry.worker() as worker:
        for number in range(6):
            user = {"id": f"user-{number}", "name": "N", "email": f"{number % 5}@example.com"}
            answer = worker.post("/users", json=user, headers={"Prefer": "wait=10"})
            assert answer.status_code == (201 if number < 5 else 409), answer.text
    rows = kafka.read_all(registry.brokers, registry.users_changelog)
    written = Counter(key for row in rows if (key := row.key() or b"").startswith(b"user-"))
    # A user that waited for its address in another transaction has two rows.
    assert written == {b"user-%d" % number: 1 for number in range(6)}
    assert_verified(worker)


# Writes to stores, one after the other: the user's row, the address's. There are no others: the
# registry is new, and nothing is recovered.
@pytest.mark.parametrize("number", [1, 2])
def test_who_waits_for_a_write_is_told_although_a_store_failed_after_its_commit(
    registry: Registry, number: int
) -> None:
    worker = registry.worker()
    worker.command = faulty_command("rows are written to a store", Kind.RAISE, number)
    with worker:
        user_id = f"user-{uuid.uuid4().hex[:12]}"
        body = {"id": user_id, "name": "N", "email": f"{user_id}@example.com"}
        assert "Input/output error" not in worker.log.read_text()
        began = time.monotonic()
        told = worker.post("/users", json=body, headers={"Prefer": "wait=10"})
        assert (told.status_code, told.json()["status"]) == (201, "registered")
        assert time.monotonic() - began < 5
        assert "Input/output error" in worker.log.read_text()


@pytest.mark.soak
def test_a_full_disk_ends_the_worker_with_its_cause_and_costs_nothing(
    registry: Registry,
) -> None:
    worker = registry.worker()
    with worker:
        ids = produce(registry, 3_000)
        wait_until(lambda: nothing_is_left(registry), 20, "everything is applied")
    ids += produce(registry, 3_000)
    worker.command = faulty_command("full-disk", 60_000)
    worker.launch()
    assert worker.wait() == 1
    log = worker.log.read_text()
    assert "records cannot be applied: " in log
    assert "File too large" in log
    assert "  File " not in log
    worker.command = SOUND_COMMAND
    with worker:
        wait_until(lambda: nothing_is_left(registry), 20, "everything is applied")
    assert_rows(registry, ids)
    assert_verified(worker, "--stores", str(worker.folder))


@pytest.fixture
def pair(registry: Registry) -> tuple[Worker, Worker]:
    """Return two workers that soon notice that the other is gone."""
    registry.settings = {"SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS), "STANDBY_REPLICAS": "1"}
    return registry.worker(1), registry.worker(2)


def test_a_standby_takes_over_from_a_dead_worker_without_a_rebuild(
    registry: Registry, pair: tuple[Worker, Worker]
) -> None:
    with pair[0] as one, pair[1] as two:
        ids = produce(registry, 4_000)
        wait_until(lambda: nothing_is_left(registry), 30, "everything is applied")
        by_partition = {partition_of(encode_key(i), PARTITIONS): i for i in ids}
        # The standbys have everything, too, soon.
        wait_until(lambda: two.is_ready() and one.is_ready(), 10, "both are ready")
        one.kill()

        def all_answer() -> bool:
            asked = (two.get("/users", params={"id": i}) for i in by_partition.values())
            return all(is_fresh(answer) for answer in asked)

        wait_until(all_answer, SESSION_SECONDS + TAKEOVER_SECONDS, "the other worker took over")
        ids += produce(registry, 500)
        wait_until(lambda: nothing_is_left(registry), 20, "everything is applied")
        recovered = [line for line in two.log.read_text().splitlines() if "recovered" in line]
        assert len(by_partition) == PARTITIONS
        assert " rows=0 " in recovered[-1], recovered[-1]
    assert_rows(registry, ids)
    assert_verified(two)


@pytest.mark.soak
def test_a_zombie_that_goes_on_after_its_partitions_moved_changes_nothing(
    registry: Registry, pair: tuple[Worker, Worker]
) -> None:
    with pair[0] as one, pair[1] as two:
        wait_until(lambda: one.is_ready() and two.is_ready(), 30, "both are ready")
        one.suspend()
        # Fetched by the zombie already, or lying in its way when it wakes.
        ids = produce(registry, 2_000)
        wait_until(lambda: nothing_is_left(registry), 30, "the other worker applied everything")
        ids += produce(registry, 500)
        one.resume()
        ids += produce(registry, 2_000)
        wait_until(lambda: one.is_ready() and two.is_ready(), 30, "both are ready again")
        wait_until(lambda: nothing_is_left(registry), 30, "everything is applied")
    assert_rows(registry, ids)
    assert_verified(two, "--stores", str(one.folder), "--stores", str(two.folder))


@pytest.mark.soak
def test_workers_join_and_leave_while_records_come(
    registry: Registry, pair: tuple[Worker, Worker]
) -> None:
    ids: list[str] = []
    with pair[0] as one:
        ids += produce(registry, 2_000)
        with pair[1] as two:
            ids += produce(registry, 2_000)
            wait_until(lambda: one.is_ready() and two.is_ready(), 30, "both are ready")
            ids += produce(registry, 2_000)
        ids += produce(registry, 2_000)
        wait_until(lambda: nothing_is_left(registry), 30, "everything is applied")
    assert_rows(registry, ids)
    assert_verified(one, "--stores", str(one.folder), "--stores", str(two.folder))
