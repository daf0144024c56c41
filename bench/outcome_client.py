"""A client of topics only: produces registrations by a schedule, and takes their outcomes.

``python -m bench.outcome_client`` takes its `Task` as JSON on the standard input, and writes what
it saw as JSON. A time begins when a registration is due, and ends when its committed outcome is
read.
"""

import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from bench.live_client import percentile_ms

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Task:
    """How many registrations to produce, and to which topics they and their outcomes go."""

    brokers: str
    registrations: str
    outcomes: str
    per_second: float
    warm_up_seconds: float
    seconds: float
    #: Ids and addresses begin with it. No two tasks at one place may have the same.
    prefix: str
    #: How long to wait for the first outcome: the engine may still be starting.
    first_seconds: float = 90.0
    #: How long to wait for outcomes after the last registration was due.
    patience_seconds: float = 15.0


class Outcomes:
    """Reads the outcomes that are committed, in a thread."""

    def __init__(self, brokers: str, topic: str) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": brokers,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
        self._consumer = Consumer(settings)
        found = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ends = [
            self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
            for number in found
        ]
        places = zip(found, ends, strict=True)
        self._consumer.assign([TopicPartition(topic, number, end) for number, end in places])
        #: The moment (`perf_counter`) at which the first outcome of an id was read, and its value.
        self.seen: dict[bytes, tuple[float, bytes]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._ended.is_set():
            message = self._consumer.poll(POLL_SECONDS)
            if message is None or message.error():
                continue
            now = perf_counter()
            self.seen.setdefault(message.key() or b"", (now, message.value() or b""))


class Client:
    """One run of a task."""

    def __init__(self, task: Task) -> None:
        self._task = task
        settings: dict[str, Any] = {
            "bootstrap.servers": task.brokers,
            "partitioner": "murmur2_random",
            "acks": "all",
            "linger.ms": 0,
        }
        self._producer = Producer(settings)

    def run(self) -> dict[str, Any]:
        """Produce all, wait for the outcomes, and return what was seen."""
        task = self._task
        outcomes = Outcomes(task.brokers, task.outcomes)
        try:
            self._wait_for_the_first(outcomes)
            due, began, cpu = self._produce_all()
            ended, used = time.time(), time.process_time() - cpu
            deadline = perf_counter() + task.patience_seconds
            while perf_counter() < deadline and not due.keys() <= outcomes.seen.keys():
                self._producer.poll(0.01)
        finally:
            outcomes.close()
        told = _told(due, outcomes.seen)
        client_cpu = used / (ended - began)
        return {**told, "began": began, "ended": ended, "client_cpu": client_cpu}

    def _wait_for_the_first(self, outcomes: Outcomes) -> None:
        first = f"{self._task.prefix}-first".encode()
        self._produce(first)
        deadline = perf_counter() + self._task.first_seconds
        while first not in outcomes.seen:
            self._producer.poll(POLL_SECONDS)
            if perf_counter() > deadline:
                sys.exit(f"no outcome within {self._task.first_seconds:.0f} s")

    def _produce_all(self) -> tuple[Mapping[bytes, float], float, float]:
        """Return when each measured id was due, when the first one was, and CPU time by then."""
        task = self._task
        warm_up = round(task.warm_up_seconds * task.per_second)
        total = warm_up + round(task.seconds * task.per_second)
        due: dict[bytes, float] = {}
        began, cpu = time.time(), time.process_time()
        start = perf_counter()
        for number in range(total):
            moment = start + number / task.per_second
            # Waiting is left to the system: librdkafka counts in milliseconds, and would spin.
            self._producer.poll(0)
            if (wait := moment - perf_counter()) > 0:
                time.sleep(wait)
            if number == warm_up:
                began, cpu = time.time(), time.process_time()
            user_id = f"{task.prefix}-{number}".encode()
            self._produce(user_id)
            if number >= warm_up:
                due[user_id] = moment
        return due, began, cpu

    def _produce(self, user_id: bytes) -> None:
        value = b'{"id":"%b","name":"Ada King","email":"%b@example.com"}' % (user_id, user_id)
        self._producer.produce(self._task.registrations, value, user_id, on_delivery=_require)


def _require(error: KafkaError | None, _message: object) -> None:
    if error is not None:
        sys.exit(f"a registration was not stored: {error}")


def _told(due: Mapping[bytes, float], seen: Mapping[bytes, tuple[float, bytes]]) -> dict[str, Any]:
    """Return percentiles, and how many have no outcome or another than wanted."""
    found = {user_id: seen[user_id] for user_id in due if user_id in seen}
    words = [orjson.loads(value)["outcome"] for _, value in found.values()]
    times = [at - due[user_id] for user_id, (at, _) in found.items()]
    return {
        "sent": len(due),
        "failures": len(due) - words.count("registered"),
        "p50_ms": percentile_ms(times, 0.5),
        "p99_ms": percentile_ms(times, 0.99),
    }


if __name__ == "__main__":
    given = Task(**orjson.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(orjson.dumps(Client(given).run()))
