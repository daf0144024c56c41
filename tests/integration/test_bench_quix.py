"""Quix Streams as a peer of the bench: it does the work that ours does, and exactly once."""

import json
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Message

from bench.commits import Committed
from bench.engines import ENGINES, PEERS_PYTHON, Place, wait_while
from bench.workloads import PARTITIONS, make_topic
from local.broker import Broker
from tests.support import kafka

USERS = 300
WAIT_SECONDS = 90

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        not PEERS_PYTHON.exists(), reason="its packages are not installed: `make bench` does it"
    ),
]


def rows(found: list[Message]) -> dict[str, dict[str, str]]:
    """Return the rows that stand in a changelog, by id; none may be there twice."""
    told = [json.loads(message.value() or b"") for message in found if message.value()]
    by_id = {row["id"]: row for row in told if isinstance(row, dict)}
    assert len(by_id) == len(told)
    return by_id


@pytest.mark.parametrize("name", ["quix", "quix-eos"])
def test_each_registration_is_one_row_and_its_offset_is_committed(
    broker: Broker, tmp_path: Path, name: str
) -> None:
    topic = f"{name}-{uuid.uuid4().hex[:8]}"
    make_topic(broker.address, topic)
    users = [
        {"id": f"user-{n}", "name": "Ada King", "email": f"{n}@example.com"} for n in range(USERS)
    ]
    sent = [*users, *users[:50], {**users[0], "email": "nonsense"}]
    records = [{"key": user["id"].encode(), "value": json.dumps(user).encode()} for user in sent]
    kafka.produce(broker.address, topic, records)
    place = Place(broker.address, topic, "", topic, tmp_path / "quix")
    with (
        ENGINES[name].running(place) as running,
        Committed(broker.address, topic, PARTITIONS, topic) as committed,
    ):
        wait_while(running, lambda: committed.records() < len(sent), WAIT_SECONDS, "all applied")
        changelog = f"changelog__{topic}--{topic}--default"

        def found() -> dict[str, dict[str, str]]:
            return rows(kafka.read_all(broker.address, changelog))

        # Offsets may be committed a moment before the markers of their transaction are everywhere.
        wait_while(running, lambda: len(found()) < USERS, WAIT_SECONDS, "all committed")
    assert {user_id: row["email"] for user_id, row in found().items()} == {
        user["id"]: user["email"] for user in users
    }
