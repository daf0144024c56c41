"""Plain Kafka clients for tests: librdkafka's, which know nothing of this project."""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from confluent_kafka import Consumer, Message, Producer, TopicPartition

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


def read_all(brokers: str, topic: str) -> list[Message]:
    """Return every record of a topic, by partition and offset."""
    ends = {number: end for number, end in end_offsets(brokers, topic).items() if end}
    found: list[Message] = []
    with _consumer(brokers) as consumer:
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        while ends:
            message = consumer.poll(POLL_SECONDS)
            if message is None:
                continue
            assert message.error() is None, message.error()
            found.append(message)
            partition, offset = place(message)
            if offset + 1 >= ends[partition]:
                del ends[partition]
    return sorted(found, key=place)


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
            "enable.partition.eof": False,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()
