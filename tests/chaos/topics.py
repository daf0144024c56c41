"""What the topics say: read whole, committed records only, from a broker that runs."""

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from app.domain.keys import encode_key, partition_of
from app.domain.positions import Position
from tests.chaos.model import Record
from tests.chaos.strays import POISONED, UNREADABLE
from tests.support import kafka

#: Keys of a changelog that begin so are the engine's own: how far it has come, no row.
BOOKKEEPING = b"\xff"
FETCH_RECORDS = 10_000
FETCH_SECONDS = 0.05
READ_TIMEOUT_SECONDS = 60
#: A level of syslog.
ERRORS_ONLY = 3


class Reader:
    """Reads a topic from its beginning; records of aborted transactions are left out."""

    def __init__(
        self, consumer: Consumer, topic: str, partitions: Sequence[int] | None = None
    ) -> None:
        self._consumer = consumer
        self._partitions = partitions or partitions_of(consumer, topic)
        self._ended: set[int] = set()
        consumer.assign([TopicPartition(topic, number, 0) for number in self._partitions])

    def to_the_end(self) -> Iterator[Message]:
        """Yield records until each partition has come to its end."""
        while len(self._ended) < len(self._partitions):
            yield from self.some()

    def some(self) -> Iterator[Message]:
        """Yield the records that are there now, not more than fit into memory."""
        for message in self._consumer.consume(FETCH_RECORDS, FETCH_SECONDS):
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                self._ended.add(cast(int, message.partition()))
            else:
                assert error.retriable(), error


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """Return the numbers of a topic's partitions."""
    return sorted(consumer.list_topics(topic, timeout=10).topics[topic].partitions)


@contextmanager
def reading(brokers: str, topic: str, partitions: Sequence[int] | None = None) -> Iterator[Reader]:
    """Read a topic, or some of its partitions, in the block."""
    settings: dict[str, Any] = {
        "bootstrap.servers": brokers,
        "group.id": uuid.uuid4().hex,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        # Not all topics begin where they did.
        "auto.offset.reset": "earliest",
        "log_level": ERRORS_ONLY,
        "isolation.level": "read_committed",
    }
    consumer = Consumer(settings)
    try:
        yield Reader(consumer, topic, partitions)
    finally:
        consumer.close()


class Table:
    """A table as its changelog has it: the last value of each key, without bookkeeping."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def apply(self, records: Iterator[Message]) -> None:
        """Take records in, in the order of each partition."""
        for record in records:
            key, value = cast(bytes, record.key()), record.value()
            if key.startswith(BOOKKEEPING):
                continue
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def digest(self) -> str:
        """Return what is equal for equal tables only."""
        hashed = hashlib.sha256()
        for key in sorted(self.rows):
            for part in (key, self.rows[key]):
                hashed.update(len(part).to_bytes(4, "big") + part)
        return hashed.hexdigest()


def read_table(brokers: str, changelog: str) -> Table:
    """Return the table that a changelog holds now."""
    table = Table()
    with reading(brokers, changelog) as reader:
        table.apply(reader.to_the_end())
    return table


@dataclass(frozen=True, slots=True)
class Told:
    """What a record of ``registration-outcomes`` says: the members that a lookup tells, too."""

    id: str
    members: Mapping[str, str]

    @property
    def outcome(self) -> str:
        """The outcome in one word; of a rejection it is the reason."""
        return self.members.get("reason") or self.members["outcome"]


@dataclass
class Outcomes:
    """What the topic of outcomes says of each position."""

    told: dict[str, Told] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    #: Positions of which it speaks more than once.
    repeated: set[str] = field(default_factory=set)

    def apply(self, records: Iterator[Message]) -> None:
        """Take records in."""
        for record in records:
            told = Told(
                cast(bytes, record.key()).decode(), orjson.loads(cast(bytes, record.value()))
            )
            position = told.members["position"]
            if position in self.told:
                self.repeated.add(position)
            self.told[position] = told
            self.ids.add(told.id)


def read_outcomes(brokers: str, topic: str) -> Outcomes:
    """Return what the topic of outcomes says."""
    outcomes = Outcomes()
    with reading(brokers, topic) as reader:
        outcomes.apply(reader.to_the_end())
    return outcomes


@dataclass
class Sources:
    """What stands in the topic of registrations, by where it stands."""

    partitions: int
    #: By position: how often a record was re-sent from there.
    moved: Counter[str] = field(default_factory=Counter)
    misplaced: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)

    def at_home(self, records: Iterator[Message]) -> Iterator[Record]:
        """Take records in; yield those that can be read and stand in their id's partition."""
        for message in records:
            position = Position(*kafka.place(message)).token()
            value = message.value()
            if value is not None and value.startswith(UNREADABLE):
                self.unreadable.add(position)
                continue
            command = None if value is None else orjson.loads(value)
            user_id = cast(bytes, message.key()).decode() if command is None else command["id"]
            if POISONED in user_id:
                self.unreadable.add(position)
                continue
            if partition_of(encode_key(user_id), self.partitions) != message.partition():
                self.misplaced.add(position)
                continue
            if came_from := kafka.headers(message).get("moved-from"):
                self.moved[came_from.decode()] += 1
            yield Record(position, user_id, command)


def read_dead_letters(brokers: str, topic: str) -> Counter[str]:
    """Return how often there is a dead letter under a key: its source topic and position."""
    with reading(brokers, topic) as reader:
        return Counter(cast(bytes, letter.key()).decode() for letter in reader.to_the_end())
