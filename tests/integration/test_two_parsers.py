"""What `verify` reads of a real broker is what the engine reads."""

import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from app.config.settings import Settings
from app.kafka.cluster import Cluster
from app.kafka.partition_reader import Isolation, Reader, Scan, scan_as_workers_do
from app.kafka.topics import TopicSpec
from app.ops.verify.findings import Difference
from app.ops.verify.reading import IndependentScan
from local.broker import Broker
from tests.integration.test_lost_records import produce
from tests.integration.test_repartition import run
from tests.integration.test_unreadable_records import spoil
from tests.support.hand_made_batches import bomb, send
from tests.support.worker import Registry, wait_until
from tests.unit.test_verify_reading import said


@pytest.fixture
def topic(registry: Registry) -> TopicSpec:
    """Return a topic with transactions, aborted and not, and what most clients cannot read."""
    name = f"two-parsers-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": registry.brokers})
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(timeout=10)
    producers = [new_producer(registry, codec) for codec in ("none", "lz4", "zstd", "gzip")]
    for number in range(12):
        for producer in producers[: 1 + number % 4]:
            producer.begin_transaction()
        for producer in producers[: 1 + number % 4]:
            for partition in (0, 1):
                headers: list[Any] = [("trace", b"%d" % number)]
                producer.produce(name, b"v%d" % number, b"k", partition, headers=headers)
            producer.flush()
        for which, producer in enumerate(producers[: 1 + number % 4]):
            if (number + which) % 3:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
        if number % 5 == 0:
            spoil(registry, name, 0, b"spoiled")
    send(
        registry.brokers,
        name,
        0,
        bomb((bytes(900_000) for _ in range(20)), int(time.time() * 1000)),
    )
    producers[0].begin_transaction()
    producers[0].produce(name, b"aborted", b"k", 0)
    producers[0].abort_transaction()
    return TopicSpec(name, 2, 1)


def new_producer(registry: Registry, codec: str) -> Producer:
    """Return a transactional producer."""
    settings = {"transactional.id": uuid.uuid4().hex, "compression.type": codec}
    producer = Producer({"bootstrap.servers": registry.brokers, **settings})
    producer.init_transactions()
    return producer


async def read(
    broker: Broker, topic: TopicSpec, isolation: Isolation, scan: Scan
) -> Sequence[object]:
    """Return all that a topic says."""
    connection = Settings(kafka_brokers=broker.address).kafka
    cluster = Cluster(connection, [topic.name])
    try:
        await cluster.start()
        reader = Reader(connection, cluster, isolation, scan)
        passed: list[int] = []
        reader.advance = lambda _, further: passed.append(further)
        extents = await reader.extents(topic)
        records = [
            (extent.partition, said(record))
            for extent in extents
            async for some in reader.read(extent)
            for record in some
        ]
        assert sum(passed) == sum(map(len, extents))
        return records
    finally:
        await cluster.close()


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
async def test_both_read_the_same_records_of_a_broker(
    broker: Broker, topic: TopicSpec, isolation: Isolation
) -> None:
    scan = IndependentScan()
    by_verify = await read(broker, topic, isolation, scan)
    assert by_verify == await read(broker, topic, isolation, scan_as_workers_do)
    assert len(by_verify) > 50
    # Three with a header name that is not UTF-8, and one that unpacks to 18 MB.
    assert len(scan.left_to_engine) == 4


@pytest.mark.soak  # tests/unit/test_verify_reading.py has the short form
def test_a_record_that_the_parser_of_a_worker_leaves_out_is_named(registry: Registry) -> None:
    worker, operator = registry.worker(), registry.worker(2)
    assert run(operator, "topics").returncode == 0
    ids = produce(registry, 20, 3)
    worker.command = [sys.executable, "-m", "tests.support.faulty_worker", "leaves-out", "last"]
    with worker:
        worker.wait_for_user(ids[0], 30)
        verified = wait_until(
            lambda: "not applied" not in (told := run(operator, "verify").stdout) and told,
            60,
            "everything that is read is applied",
        )
    assert f"  {registry.registrations} 3:19\n" in verified.partition(Difference.MISSING_ROW)[2]
