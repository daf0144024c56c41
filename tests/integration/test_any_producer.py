"""Any Kafka producer may write the topic: no key, any partition, any codec; and nonsense."""

import uuid

import orjson
import pytest
from confluent_kafka import Message

from app.domain.keys import encode_key, partition_of
from app.domain.positions import Position
from tests.support import kafka
from tests.support.worker import PARTITIONS, Registry, Worker, wait_until


def value(user_id: str, name: str = "K") -> bytes:
    """Return a registration in the public format."""
    return orjson.dumps({"id": user_id, "name": name, "email": f"{user_id}@example.com"})


def fresh() -> str:
    """Return an id that no other test uses."""
    return f"any-{uuid.uuid4().hex}"


def letters_with_key(registry: Registry, key: bytes) -> list[Message]:
    """Return the dead letters of records that had a key."""
    letters = kafka.read_all(registry.brokers, registry.dead_letters)
    return [m for m in letters if kafka.headers(m).get("original-key") == key]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_is_read(shared_registry: Registry, worker: Worker, codec: str) -> None:
    ids = [fresh() for _ in range(20)]
    records = [{"value": value(user_id), "key": encode_key(user_id)} for user_id in ids]
    brokers, topic = shared_registry.brokers, shared_registry.registrations
    kafka.produce(brokers, topic, records, **{"compression.type": codec})
    for user_id in ids:
        worker.wait_for_user(user_id)


def test_a_record_without_a_key_shows_up(shared_registry: Registry, worker: Worker) -> None:
    body = b'{"id":"k1","name":"K","email":"k@example.com"}'
    kafka.produce(shared_registry.brokers, shared_registry.registrations, [{"value": body}])
    assert worker.wait_for_user("k1")["name"] == "K"


def test_a_record_in_any_partition_ends_in_the_right_row(
    shared_registry: Registry, worker: Worker
) -> None:
    brokers, topic = shared_registry.brokers, shared_registry.registrations
    by_partition = {number: fresh() for number in range(PARTITIONS)}
    came_at = 1_750_000_000_123
    records = [
        {"value": value(user_id), "key": b"misleading", "partition": number, "timestamp": came_at}
        for number, user_id in by_partition.items()
    ]
    kafka.produce(brokers, topic, records)
    for user_id in by_partition.values():
        user = worker.wait_for_user(user_id)
        home = partition_of(encode_key(user_id), PARTITIONS)
        assert Position.parse(user["position"]).partition == home
        assert user["registered_at"] == "2025-06-15T15:06:40.123000Z"
    moved = [m for m in kafka.read_all(brokers, topic) if "moved-from" in kafka.headers(m)]
    of_this_test = [m for m in moved if m.key() in {encode_key(i) for i in by_partition.values()}]
    for message in of_this_test:
        user_id = (message.key() or b"").decode()
        first = Position.parse(kafka.headers(message)["moved-from"].decode())
        assert by_partition[first.partition] == user_id
        assert message.timestamp()[1] == came_at
    strays = [n for n, i in by_partition.items() if partition_of(encode_key(i), PARTITIONS) != n]
    assert len(of_this_test) == len(strays)


def test_nonsense_is_a_dead_letter_and_the_next_record_is_applied(
    shared_registry: Registry, worker: Worker
) -> None:
    brokers, topic = shared_registry.brokers, shared_registry.registrations
    user_id = fresh()
    home = partition_of(encode_key(user_id), PARTITIONS)
    key = b"\x00" + uuid.uuid4().bytes  # no id: nobody's
    nonsense: dict[bytes | None, bytes] = {
        b"not json": b"invalid-json",
        b'{"id":7,"name":"A","email":"nonsense"}': b"invalid-record",
        b'{"type":"upset","id":7,"name":"B"}': b"unknown-type",
        b'{"type":"update","id":"","name":"B"}': b"invalid-record",
        None: b"no-value",
    }
    records = [
        {"value": body, "key": key, "partition": home, "headers": {"trace": b"t"}}
        for body in nonsense
    ]
    kafka.produce(brokers, topic, [*records, {"value": value(user_id), "partition": home}])
    worker.wait_for_user(user_id)
    dead = letters_with_key(shared_registry, key)
    assert {
        None if "original-value-is-null" in kafka.headers(m) else m.value(): kafka.headers(m)[
            "error"
        ]
        for m in dead
    } == nonsense
    for message in dead:
        told = kafka.headers(message)
        assert told["source-topic"] == topic.encode()
        assert int(told["source-partition"]) == home
        assert told["trace"] == b"t"
        at = int(told["source-offset"])
        position = Position(home, at)
        assert Position.parse(told["source-position"].decode()) == position
        assert message.key() == f"{topic}/{position.token()}".encode()


def test_a_compressed_record_larger_than_a_dead_letter_does_not_stop_the_partition(
    shared_registry: Registry, worker: Worker
) -> None:
    brokers, topic = shared_registry.brokers, shared_registry.registrations
    user_id = fresh()
    home = partition_of(encode_key(user_id), PARTITIONS)
    key = b"\x00" + uuid.uuid4().bytes
    huge = {"value": b"x" * 8_000_000, "key": key, "partition": home}
    limits = {"compression.type": "zstd", "message.max.bytes": 10_000_000}
    kafka.produce(brokers, topic, [huge], **limits)
    kafka.produce(brokers, topic, [{"value": value(user_id), "partition": home}])
    worker.wait_for_user(user_id)
    dead = [
        kafka.headers(m).get("too-large-bytes")
        for m in kafka.read_all(brokers, shared_registry.dead_letters)
    ]
    assert str(8_000_000 + len(key)).encode() in dead


def test_everything_consumed_is_committed(shared_registry: Registry, worker: Worker) -> None:
    brokers, topic = shared_registry.brokers, shared_registry.registrations
    worker.wait_for_user(worker.post("/users", json=orjson.loads(value(fresh()))).json()["id"])

    def all_committed() -> bool:
        ends = {n: end for n, end in kafka.end_offsets(brokers, topic).items() if end}
        return kafka.committed(brokers, shared_registry.app_id, topic) == ends

    wait_until(all_committed, 10, "the committed offsets are the ends of the partitions")
