"""The limit: librdkafka and RocksDB with nothing between them, and no guarantees.

One database for all partitions, no rebalance, no recovery, and a crash may lose what was applied
between two commits.
"""

import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pydantic import ValidationError
from rocksdict import Options, Rdict, WriteBatch

from bench.peers.arguments import Arguments, arguments
from bench.peers.rules import Registration, decide, read

BATCH = 10_000
COMMIT_SECONDS = 1.0
POLL_SECONDS = 0.1


#: A new row as a changelog record, in the form that librdkafka's ``produce_batch`` takes.
Row = dict[str, Any]


class Loop:
    """Read a batch, decide, write the store and the changelog; commit once a second."""

    def __init__(self, told: Arguments) -> None:
        self._changelog = told.changelog
        _make_changelog(told)
        self._store = Rdict(str(told.folder / "users"), Options(raw_mode=True))
        self._producer = Producer(
            {
                "bootstrap.servers": told.brokers,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 20,
                "batch.size": 1 << 20,
                "queue.buffering.max.messages": 1_000_000,
                "delivery.report.only.error": True,
            }
        )
        self._consumer = Consumer(
            {
                "bootstrap.servers": told.brokers,
                "group.id": told.group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.min.bytes": 1 << 16,
            }
        )
        self._consumer.subscribe([told.topic])
        self._committed_at = time.monotonic()

    def run(self) -> None:
        """Apply for ever."""
        dirty = False
        while True:
            if messages := self._consumer.consume(BATCH, POLL_SECONDS):
                self._apply(messages)
                dirty = True
            if dirty and time.monotonic() - self._committed_at >= COMMIT_SECONDS:
                self._commit()
                dirty = False

    def _apply(self, messages: Sequence[Message]) -> None:
        arrived = _readable(messages)
        keys: Any = [registration["id"].encode() for _, registration in arrived]
        rows = _new_rows(arrived, self._store.get(keys) or [])
        batch = WriteBatch(raw_mode=True)
        for row in rows:
            batch.put(row["key"], row["value"])
        self._store.write(batch)
        self._send(rows)

    def _send(self, rows: list[Row]) -> None:
        taken = self._producer.produce_batch(self._changelog, rows, on_delivery=_fail)
        if taken < len(rows):
            raise RuntimeError("the producer's queue is full")
        self._producer.poll(0)

    def _commit(self) -> None:
        self._producer.flush()
        self._consumer.commit(asynchronous=True)
        self._committed_at = time.monotonic()


def _readable(messages: Sequence[Message]) -> list[tuple[Message, Registration]]:
    found = []
    for message in messages:
        if message.error():
            raise RuntimeError(str(message.error()))
        try:
            found.append((message, read(message.value() or b"")))
        except ValidationError:
            continue
    return found


def _new_rows(arrived: Sequence[tuple[Message, Registration]], known: Sequence[Any]) -> list[Row]:
    """Return the rows that a batch makes, deciding its records in their order."""
    new: dict[bytes, Row] = {}
    for (message, registration), stored in zip(arrived, known, strict=True):
        key = registration["id"].encode()
        row = new[key]["value"] if key in new else stored
        partition, offset = message.partition() or 0, message.offset() or 0
        decision = decide(row, registration, message.timestamp()[1], partition, offset)
        if isinstance(decision, bytes):
            new[key] = {"key": key, "value": decision, "partition": partition}
    return list(new.values())


def _fail(error: object, _message: Message) -> None:
    raise RuntimeError(f"a changelog record was not written: {error}")


def _make_changelog(told: Arguments) -> None:
    topic = NewTopic(told.changelog, told.partitions, config={"cleanup.policy": "compact"})
    admin = AdminClient({"bootstrap.servers": told.brokers})
    admin.create_topics([topic])[told.changelog].result()


if __name__ == "__main__":
    Loop(arguments()).run()
