"""Records that another program writes into the topic: misplaced, without a key, unreadable.

What is misplaced may be an update or an erasure, too: of a user whom the program registered before.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson
from aiokafka.errors import KafkaError

from app.domain.keys import encode_key, partition_of
from tests.support import kafka
from tests.support.hand_made_batches import NAME_TO_SPOIL, Row, send, with_bad_name
from tests.support.worker import wait_until

#: So a record begins that nobody can read; everything else in the topic can be read.
UNREADABLE = b"\x00chaos"
#: A part of the ids of registrations that could be read but for their headers.
POISONED = "poisoned"
WRITTEN_WITHIN_SECONDS = 30.0
EACH_TIME_MISPLACED = 4
EACH_TIME_KEYLESS = 2


class Strays:
    """Writes records by librdkafka, and remembers the ids that it registered."""

    def __init__(self, brokers: str, topic: str, partitions: int, seed: int) -> None:
        self.ids: list[str] = []
        self.unreadable = 0
        self.poisoned = 0
        self._brokers = brokers
        self._topic = topic
        self._partitions = partitions
        self._seed = seed

    def write(self) -> None:
        """Write a few of each; the broker must be there."""
        kafka.produce(self._brokers, self._topic, list(self._records()))

    def write_last(self) -> None:
        """Write one registration into each partition, behind all others."""
        records = [self._last_of(partition) for partition in range(self._partitions)]
        kafka.produce(self._brokers, self._topic, records)

    def poison(self) -> None:
        """Write a registration that no client can read: a header's name is not UTF-8."""
        user_id = f"chaos-{self._seed}-{POISONED}-{self.poisoned}"
        self.poisoned += 1
        key, value = encode_key(user_id), _value(user_id)
        row: Row = (0, int(time.time() * 1000), key, value, [(NAME_TO_SPOIL, b"1")])
        batch = with_bad_name([row])

        def is_sent() -> bool:
            # A broker that was killed leads no partition for a moment.
            with suppress(KafkaError):
                send(self._brokers, self._topic, self._home(user_id), batch)
                return True
            return False

        wait_until(is_sent, WRITTEN_WITHIN_SECONDS, "a poisoned record is written")

    def _records(self) -> Iterator[dict[str, Any]]:
        changes = (_update, _erasure)
        for change, user_id in zip(changes, self.ids[-len(changes) :], strict=False):
            yield self._misplaced(encode_key(user_id), change(user_id))
        for _ in range(EACH_TIME_MISPLACED):
            yield self._misplaced(*self._new("misplaced"))
        for _ in range(EACH_TIME_KEYLESS):
            yield {"value": self._new("keyless")[1]}
        self.unreadable += 1
        yield {"value": UNREADABLE + str(self.unreadable).encode()}

    def _misplaced(self, key: bytes, value: bytes | None) -> dict[str, Any]:
        elsewhere = (partition_of(key, self._partitions) + 1) % self._partitions
        return {"key": key, "value": value, "partition": elsewhere}

    def _last_of(self, partition: int) -> dict[str, Any]:
        attempts = (f"chaos-{self._seed}-last-{partition}-{number}" for number in range(10_000))
        user_id = next(i for i in attempts if self._home(i) == partition)
        self.ids.append(user_id)
        return {"key": encode_key(user_id), "value": _value(user_id), "partition": partition}

    def _home(self, user_id: str) -> int:
        return partition_of(encode_key(user_id), self._partitions)

    def _new(self, kind: str) -> tuple[bytes, bytes]:
        user_id = f"chaos-{self._seed}-{kind}-{len(self.ids)}"
        self.ids.append(user_id)
        return encode_key(user_id), _value(user_id)


def _value(user_id: str) -> bytes:
    user = {"id": user_id, "name": "Stray", "email": f"{user_id}@example.com"}
    return orjson.dumps(user)


def _update(user_id: str) -> bytes:
    return orjson.dumps({"type": "update", "id": user_id, "name": "Stray Again"})


def _erasure(_user_id: str) -> None:
    return None
