"""Plain Kafka clients for tests: librdkafka's, which know nothing of this project."""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

POLL_SECONDS = 0.5
DELIVERY_TIMEOUT_SECONDS = 15


def produce(
    brokers: str, topic: str, records: Iterable[Mapping[str, Any]], **settings: Any
) -> None:
    """Send records, each a set of arguments of librdkafka's ``produce``; wait until delivered."""
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 50, **settings})
    failures: list[object] = []
    for record in records:
        while True:
            try:
                producer.produce(topic, on_delivery=lambda e, _: failures.append(e), **record)
                break
            except BufferError:  # its queue is full: let it send
                producer.poll(POLL_SECONDS)
        producer.poll(0)
    assert producer.flush(DELIVERY_TIMEOUT_SECONDS) == 0
    assert not [failure for failure in failures if failure is not None]


def end_offsets(brokers: str, topic: str) -> dict[int, int]:
    """Return where each partition of a topic ends."""
    with _consumer(brokers) as consumer:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
            for number in partitions
        }


def has_no_members(brokers: str, group: str) -> bool:
    """Return whether nobody is in a group."""
    admin = AdminClient({"bootstrap.servers": brokers})
    return not admin.describe_consumer_groups([group])[group].result(10).members


def is_rebalancing(admin: AdminClient, group: str) -> bool:
    """Return whether the members of a group are joining it anew; not if nobody can tell now."""
    try:
        found = admin.describe_consumer_groups([group])[group].result(10)
    except KafkaException:  # its coordinator has just come back
        return False
    return found.state in (
        ConsumerGroupState.PREPARING_REBALANCING,
        ConsumerGroupState.COMPLETING_REBALANCING,
    )


def copies(brokers: str, prefix: str = "") -> dict[str, set[int]]:
    """Return by topic how many brokers have its partitions up to date."""
    topics = AdminClient({"bootstrap.servers": brokers}).list_topics(timeout=10).topics
    return {
        name: {len(each.isrs) for each in topic.partitions.values()}
        for name, topic in topics.items()
        if name.startswith(prefix)
    }


def in_sync(brokers: str, wanted: int, prefix: str = "") -> bool:
    """Return whether so many brokers have everything."""
    return all(found == {wanted} for found in copies(brokers, prefix).values())


def read_all(brokers: str, topic: str) -> list[Message]:
    """Return every record of a topic that is committed, by partition and offset."""
    found: list[Message] = []
    with _consumer(brokers) as consumer:
        unfinished = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in unfinished])
        while unfinished:
            message = consumer.poll(POLL_SECONDS)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found.append(message)
            else:
                # A partition's last record may be one that only Kafka itself sees.
                assert error.code() == KafkaError._PARTITION_EOF, error
                unfinished.discard(cast(int, message.partition()))
    return sorted(found, key=place)


def users(brokers: str, changelog: str) -> dict[bytes, bytes | None]:
    """Return the rows of users in a changelog, by key; its bookkeeping is left out."""
    rows = {message.key() or b"": message.value() for message in read_all(brokers, changelog)}
    return {key: row for key, row in rows.items() if not key.startswith(b"\xff")}


def alter_config(brokers: str, topic: str, config: Mapping[str, str]) -> None:
    """Set some of a topic's settings."""
    _alter(brokers, ConfigResource.Type.TOPIC, topic, config)


def delete_topics(brokers: str, names: Iterable[str]) -> None:
    """Delete topics that nobody uses any more."""
    admin = AdminClient({"bootstrap.servers": brokers})
    for deleted in admin.delete_topics(list(names)).values():
        deleted.result(timeout=30)


def alter_broker(brokers: str, config: Mapping[str, str]) -> None:
    """Set some settings of the only broker."""
    (broker,) = AdminClient({"bootstrap.servers": brokers}).list_topics(timeout=10).brokers
    _alter(brokers, ConfigResource.Type.BROKER, str(broker), config)


def _alter(brokers: str, kind: Any, name: str, config: Mapping[str, str]) -> None:
    changes = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in config.items()
    ]
    resource = ConfigResource(kind, name, incremental_configs=changes)
    admin = AdminClient({"bootstrap.servers": brokers})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(timeout=10)


def committed(brokers: str, group: str, topic: str) -> dict[int, int]:
    """Return the offsets that a consumer group has committed, where it has any."""
    with _consumer(brokers, group) as consumer:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        stored = consumer.committed([TopicPartition(topic, n) for n in partitions], timeout=10)
        return {tp.partition: tp.offset for tp in stored if tp.offset >= 0}


def place(message: Message) -> tuple[int, int]:
    """Return a record's partition and offset."""
    return cast(int, message.partition()), cast(int, message.offset())


def headers(message: Message) -> Mapping[str, bytes]:
    """Return a record's headers."""
    return cast("dict[str, bytes]", dict(message.headers() or []))


@contextmanager
def _consumer(brokers: str, group: str | None = None) -> Iterator[Consumer]:
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": group or uuid.uuid4().hex,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()
