"""What is applied: one source topic for each workload, which all peers read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.peers.rules import Registration, new_row
from tests.support import kafka

PARTITIONS = 8

#: Four bytes each in UTF-8, so that 256 of them make 1 KiB; no two names in a row are the same.
_LONG_LETTERS = "".join(map(chr, range(0x20000, 0x21000)))
_LONG_NAME_LETTERS = 256


@dataclass(frozen=True, slots=True)
class Workload:
    """Which registration stands at each place of a source topic."""

    name: str
    label: str
    registration: Callable[[int], Registration]

    @property
    def prefix(self) -> str:
        """What our worker puts before its topics' names."""
        return f"bench-{self.name}."

    @property
    def source(self) -> str:
        """The name of the source topic, as our worker wants it."""
        return f"{self.prefix}user-registrations"


def _user(number: int) -> Registration:
    return {
        "id": f"user-{number:09}",
        "name": "Augusta Ada King",
        "email": f"{number}@example.com",
    }


def _half_duplicates(number: int) -> Registration:
    """Every second record says again what one in the first half of those before it said."""
    user, again = divmod(number, 2)
    return _user(user // 2 if again else user)


def _long_name(number: int) -> Registration:
    at = number % (len(_LONG_LETTERS) - _LONG_NAME_LETTERS)
    user = _user(number)
    user["name"] = _LONG_LETTERS[at : at + _LONG_NAME_LETTERS]
    return user


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("new", "new users", _user),
        Workload("duplicates", "half duplicates", _half_duplicates),
        Workload("long", "new users, names of 1 KiB", _long_name),
    )
}


def fill(brokers: str, workload: Workload, users: int) -> None:
    """Make the source topic of a workload, and write its records."""
    make_topic(brokers, workload.source)

    def records() -> Iterator[Mapping[str, Any]]:
        for number in range(users):
            registration = workload.registration(number)
            yield {"key": registration["id"].encode(), "value": orjson.dumps(registration)}

    _produce(brokers, workload.source, records())


def fill_changelog(brokers: str, topic: str, rows: int) -> None:
    """Make a changelog, and write a row of a new user for each record."""
    make_topic(brokers, topic, {"cleanup.policy": "compact"})

    def records() -> Iterator[Mapping[str, Any]]:
        for number in range(rows):
            user = _user(number)
            row = new_row(user, 1_700_000_000_000 + number, f"{number:020}")
            yield {"key": user["id"].encode(), "value": row}

    _produce(brokers, topic, records())


def make_topic(brokers: str, name: str, config: Mapping[str, str] | None = None) -> None:
    """Make a topic of as many partitions as all others have."""
    topic = NewTopic(name, PARTITIONS, config=dict(config or {}))
    admin = _admin(brokers)
    admin.create_topics([topic])[name].result()


def delete_topics(brokers: str, *parts: str) -> None:
    """Delete every topic with one of some words in its name."""
    admin = _admin(brokers)
    present = admin.list_topics(timeout=10).topics
    names = [name for name in present if any(part in name for part in parts)]
    if names:
        for deleted in admin.delete_topics(names).values():
            deleted.result()


def _admin(brokers: str) -> AdminClient:
    # Without its notes on what it leaves undone when it is thrown away.
    return AdminClient({"bootstrap.servers": brokers, "log_level": 3})


def _produce(brokers: str, topic: str, records: Iterator[Mapping[str, Any]]) -> None:
    settings = {"partitioner": "murmur2_random", "batch.size": 1 << 20}
    kafka.produce(brokers, topic, records, **settings)
