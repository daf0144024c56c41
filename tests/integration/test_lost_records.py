"""What a log does not have any more is never stepped over: the worker ends, and names it."""

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from app.domain.keys import partition_of
from local.broker import Broker
from tests.integration.test_repartition import run
from tests.support import kafka
from tests.support.java import QUICK
from tests.support.worker import PARTITIONS, Registry, Worker, wait_until

#: How long a worker may take to notice, and to end.
ENDS_WITHIN_SECONDS = 60


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """Run a broker whose files a test may damage."""
    with Broker(tmp_path / "broker", port=0, java_options=QUICK) as running:
        yield running


def produce(registry: Registry, count: int, partition: int | None = None) -> list[str]:
    """Write registrations, of one partition or of all; return their ids."""
    ids: list[str] = []
    while len(ids) < count:
        user_id = f"user-{uuid.uuid4().hex[:12]}"
        if partition is None or partition_of(user_id.encode(), PARTITIONS) == partition:
            ids.append(user_id)
    kafka.produce(
        registry.brokers,
        registry.registrations,
        [{"key": user_id.encode(), "value": registration(user_id)} for user_id in ids],
        partitioner="murmur2_random",
    )
    return ids


def registration(user_id: str) -> bytes:
    """Return the value of a registration."""
    return orjson.dumps({"id": user_id, "name": "N", "email": f"{user_id}@example.com"})


def delete_below(registry: Registry, topic: str, offsets: Mapping[int, int]) -> None:
    """Move the beginning of a topic's partitions."""
    wanted = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
    admin = AdminClient({"bootstrap.servers": registry.brokers})
    for deleted in admin.delete_records(wanted).values():
        deleted.result(timeout=10)


def make_anew(registry: Registry, topic: str) -> None:
    """Delete a topic, and make another of its name."""
    admin = AdminClient({"bootstrap.servers": registry.brokers})
    admin.delete_topics([topic])[topic].result(timeout=10)
    wait_until(
        lambda: (
            topic
            not in AdminClient({"bootstrap.servers": registry.brokers})
            .list_topics(timeout=10)
            .topics
        ),
        10,
        "the topic is gone",
    )
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(timeout=10)


def last_words(worker: Worker) -> str:
    """Wait until a worker ends by itself; return the line that says why."""
    assert worker.wait(ENDS_WITHIN_SECONDS) != 0
    lines = [
        line
        for line in worker.log.read_text().splitlines()
        if "records cannot be applied; the worker ends" in line
    ]
    return lines[-1]


def settle(worker: Worker, ids: list[str]) -> None:
    """Wait until the last of some users are registered, in each partition."""
    last = {partition_of(user_id.encode(), PARTITIONS): user_id for user_id in ids}
    for user_id in last.values():
        worker.wait_for_user(user_id, 20)


def test_records_deleted_below_a_running_worker_end_it_and_each_one_after_it(
    registry: Registry,
) -> None:
    worker = registry.worker()
    worker.start()
    settle(worker, produce(registry, 200))
    before = kafka.end_offsets(registry.brokers, registry.registrations)
    worker.suspend()
    produce(registry, 5_000)
    ends = kafka.end_offsets(registry.brokers, registry.registrations)
    begins = {number: (before[number] + ends[number] * 2) // 3 for number in ends}
    delete_below(registry, registry.registrations, begins)
    worker.resume()
    told = last_words(worker)
    number = int(told.partition(", partition ")[2].partition(":")[0])
    assert f"{registry.registrations}, partition {number}: records from " in told
    assert f" to {begins[number] - 1} were deleted before they were applied" in told
    # It is not ready for a moment, and then steps over: each start says the same.
    worker.launch()
    assert "were deleted before they were applied" in last_words(worker)


@pytest.mark.parametrize(
    "source", ["email_claims", pytest.param("email_decisions", marks=pytest.mark.soak)]
)
def test_the_same_holds_for_what_workers_write_for_each_other(
    registry: Registry, source: str
) -> None:
    worker = registry.worker()
    topic = getattr(registry, source)
    worker.start()
    settle(worker, produce(registry, 200))
    worker.stop()
    # Not before: the ends of its last transactions are offsets, too.
    ends = kafka.end_offsets(registry.brokers, topic)
    foreign = [{"key": b"key", "value": b"{}", "partition": n} for n in range(PARTITIONS)]
    kafka.produce(registry.brokers, topic, foreign * 3)
    delete_below(registry, topic, {number: end + 2 for number, end in ends.items()})
    worker.launch()
    assert f"{topic}, partition " in last_words(worker)
    found = run(worker, "verify")
    assert found.returncode == 2, found.stdout
    for number, end in ends.items():
        assert f"partial: {topic} {number}: applied up to " in found.stdout
        assert (
            f"the log begins at {end + 2}; what stood between was removed before it was applied"
        ) in found.stdout

    make_anew(registry, topic)
    kafka.produce(registry.brokers, topic, foreign * 200)
    found = run(worker, "verify")
    assert found.returncode == 1, found.stdout
    (first, *_) = (line for line in found.stdout.splitlines() if line.startswith("  "))
    assert first.endswith(f" of {topic}, which was deleted and recreated since")


def test_a_topic_made_anew_under_a_running_worker_ends_it(registry: Registry) -> None:
    worker = registry.worker()
    worker.start()
    settle(worker, produce(registry, 200))
    make_anew(registry, registry.registrations)
    told = last_words(worker)
    assert registry.registrations in told
    assert "recreated" in told


@pytest.mark.parametrize("count", [8, 2_000], ids=["shorter", "longer than the marker"])
def test_a_topic_made_anew_between_two_starts_ends_the_worker(
    registry: Registry, count: int
) -> None:
    worker = registry.worker()
    worker.start()
    settle(worker, produce(registry, 200))
    worker.stop()
    make_anew(registry, registry.registrations)
    produce(registry, count)
    worker.launch()
    told = last_words(worker)
    assert registry.registrations in told
    assert "recreated" in told


def test_a_topic_that_lost_its_end_ends_the_worker_though_it_has_grown_since(
    own_broker: Broker, tmp_path: Path
) -> None:
    registry = Registry(own_broker.address, tmp_path)
    worker = registry.worker()
    worker.start()
    settle(worker, produce(registry, 20, partition=3))
    settle(worker, produce(registry, 20, partition=3))
    worker.stop()
    lose_the_end(own_broker, registry.registrations, 3)
    end = kafka.end_offsets(registry.brokers, registry.registrations)[3]
    assert end < 40
    produce(registry, 100, partition=3)
    worker.launch()
    told = last_words(worker)
    assert f"{registry.registrations}, partition 3: records from {end} to 39 were applied" in told
    found = run(worker, "verify")
    assert found.returncode == 1, found.stdout
    lost = f" is at 40 of {registry.registrations}, which has lost its end from {end} on, and has "
    assert f"{registry.users_changelog} 3{lost}grown\n" in found.stdout


def lose_the_end(broker: Broker, topic: str, partition: int) -> None:
    """Let a broker come back without the newest records of a partition, as after a power cut."""
    broker.kill()
    (log,) = broker.data_dir.glob(f"**/{topic}-{partition}/00000000000000000000.log")
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size // 2)
    broker.start()
    wait_until(lambda: can_be_read(broker, topic), 30, "the broker answers")


def can_be_read(broker: Broker, topic: str) -> bool:
    """Return whether a topic's partitions have leaders."""
    try:
        return bool(kafka.end_offsets(broker.address, topic))
    except Exception:
        return False
