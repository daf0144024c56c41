"""The clients and the Kafka Streams peer of the bench, on a real broker, for a moment."""

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.keys import partition_of
from bench import live, outcomes
from bench.engines import Place
from bench.errors import PeerSkipped
from bench.flow_engines import OUR_FLOW, STREAMS_FLOWS, Flow, Tuning
from bench.live_client import Task
from bench.servers import OUR_WORKER
from bench.workloads import PARTITIONS, make_topic
from local.broker import Broker
from tests.support import kafka
from tests.support.worker import wait_until

FASTEST = STREAMS_FLOWS[-1]


@pytest.fixture
def place(broker: Broker, tmp_path: Path) -> Iterator[Place]:
    """Return a place with topics of its own."""
    name = f"live-{uuid.uuid4().hex[:8]}"
    yield Place(broker.address, f"{name}.user-registrations", f"{name}.", name, tmp_path / "engine")
    shutil.rmtree(tmp_path / "engine", ignore_errors=True)


def registration(user_id: str, email: str) -> dict[str, bytes]:
    """Return a record that registers a user."""
    body = {"id": user_id, "name": "Ada King", "email": email}
    return {"key": user_id.encode(), "value": json.dumps(body).encode()}


def test_a_worker_settles_what_the_client_sends(place: Place) -> None:
    with OUR_WORKER.running(place) as running:
        port = int(str(running.url).rpartition(":")[2])
        task = Task(port, 50.0, 0.5, 1.0, "live")
        told = live.run_client("bench.live_client", task, 60, running)
        assert (told["sent"], told["acknowledged"], told["refused"]) == (50, 50, {})
        assert told["followed"] == 10
        assert told["unsettled"] == 0
        assert told["settled_p50_ms"] > told["ack_p50_ms"] > 0
        wait_until(lambda: live.lag(running) == 0, 15, "nothing is left")


@pytest.mark.parametrize(
    "flow",
    [pytest.param(OUR_FLOW, id="ours"), pytest.param(FASTEST, id="peer", marks=pytest.mark.soak)],
)
def test_every_registration_has_an_outcome(place: Place, flow: Flow) -> None:
    if not flow.is_ours:
        make_topic(place.brokers, place.topic)
    try:
        with flow.running(place, Tuning.LATENCY) as running:
            at = outcomes.drive(flow, place, running, 50.0, 1.0)
    except PeerSkipped as skipped:
        pytest.skip(str(skipped))
    assert (at["sent"], at["failures"]) == (50, 0)
    assert at["p50_ms"] > 0


@pytest.mark.soak
def test_kafka_streams_gives_an_address_to_the_first_that_claims_it(place: Place) -> None:
    make_topic(place.brokers, place.topic)
    outcomes_topic, count = FASTEST.outcomes(place), 0

    def has_outcomes() -> bool:
        return len(kafka.read_all(place.brokers, outcomes_topic)) == count

    sent = [registration("first", "ada@example.com")]
    more = [registration("other", "ADA@example.com"), registration("first", "ada@example.com")]
    more += [registration("first", "king@example.com")]
    try:
        with FASTEST.running(place, Tuning.THROUGHPUT):
            for records in (sent, more):
                kafka.produce(place.brokers, place.topic, records, partitioner="murmur2_random")
                count += len(records)
                wait_until(has_outcomes, 60, "every record has an outcome")
    except PeerSkipped as skipped:
        pytest.skip(str(skipped))
    found = [
        (message.key(), json.loads(message.value() or b"")["outcome"])
        for message in kafka.read_all(place.brokers, outcomes_topic)
    ]
    assert sorted(found) == [
        (b"first", "id-taken"),
        (b"first", "registered"),
        (b"first", "replayed"),
        (b"other", "email-taken"),
    ]
    decisions = kafka.read_all(place.brokers, FASTEST.decisions(place))
    partitions = [(message.key() or b"", message.partition()) for message in decisions]
    assert partitions == [(key, partition_of(key, PARTITIONS)) for key, _ in partitions]
