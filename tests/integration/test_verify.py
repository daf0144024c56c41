"""``python -m app verify`` on a real broker: what it says, and its exit status."""

import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from rocksdict import Options, Rdict

from app.engine.marker import MARKER_KEY, Marker
from app.keys import partition_of
from app.positions import Position
from app.records import Registration, encode, encode_row, key_of
from app.registration import MOVED_FROM_HEADER, first_row
from tests import kafka
from tests.worker import Registry, wait_until

PARTITIONS = 8
#: Not long ago: what is older than the topic's retention may be removed at any moment.
TIMESTAMP_MS = int(time.time() * 1000)


def run(registry: Registry, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return how a command of the app ended."""
    return subprocess.run(
        [sys.executable, "-m", "app", command, *arguments],
        env=registry.worker().environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def verify(registry: Registry, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return how a verification ended."""
    return run(registry, "verify", *arguments)


def user(name: str = "Ada") -> Registration:
    """Return a registration under an id that no other test uses."""
    return Registration(id=f"user-{uuid.uuid4().hex}", name=name, email="ada@example.com")


def home_of(registration: Registration) -> int:
    """Return the partition of a registration."""
    return partition_of(key_of(registration), PARTITIONS)


@dataclass(frozen=True)
class Source:
    """A record of user-registrations; the broker takes its timestamp as it is."""

    offset: int
    value: bytes
    timestamp: int = TIMESTAMP_MS
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass
class Forge:
    """Writes the topics of a registry as a worker would, or nearly so."""

    registry: Registry
    next: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert run(self.registry, "topics").returncode == 0
        self.changelog = f"{self.registry.app_id}.{self.registry.app_id}-users-changelog"
        self._producer = Producer(
            {
                "bootstrap.servers": self.registry.brokers,
                "transactional.id": f"{self.registry.app_id}-forge",
            }
        )
        self._producer.init_transactions(15)

    def register(self, registration: Registration) -> int:
        """Write a registration and the row that it makes; return its partition."""
        partition = home_of(registration)
        self.arrive(partition, encode(registration))
        record = Source(self.next[partition] - 1, encode(registration))
        self.commit({partition: {key_of(registration): row(partition, record, registration)}})
        return partition

    def arrive(self, partition: int, value: bytes) -> None:
        """Write a record to user-registrations, outside of transactions."""
        written = {"value": value, "partition": partition, "timestamp": TIMESTAMP_MS}
        kafka.produce(self.registry.brokers, self.registry.registrations, [written])
        self.next[partition] = self.next.get(partition, 0) + 1

    def commit(
        self,
        rows: Mapping[int, Mapping[bytes, bytes | None]],
        outgoing: Iterable[Mapping[str, Any]] = (),
        abort: bool = False,
    ) -> None:
        """Write rows by partition, their markers and other records in one transaction."""
        self._producer.begin_transaction()
        for record in outgoing:
            self._producer.produce(**record)
        for partition, changed in rows.items():
            marker = Marker(log="0" * 32, next={self.registry.registrations: self.next[partition]})
            for key, value in {**changed, MARKER_KEY: marker.encode()}.items():
                self._producer.produce(self.changelog, value, key, partition)
        (self._producer.abort_transaction if abort else self._producer.commit_transaction)(15)


def row(partition: int, record: Source, registration: Registration) -> bytes:
    """Return the row that a record makes."""
    return encode_row(first_row(partition, record, registration))


@pytest.fixture
def forge(registry: Registry) -> Forge:
    """Return a forge of a registry that no other test shares."""
    return Forge(registry)


def test_an_empty_registry_is_clean(forge: Forge) -> None:
    ended = verify(forge.registry)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("result: clean\n")


def test_a_registry_written_by_transactions_is_clean(forge: Forge) -> None:
    ada, eve = user("Ada"), user("Eve")
    forge.register(ada)
    forge.arrive(home_of(ada), encode(ada))
    forge.commit({home_of(ada): {}})
    forge.commit({home_of(ada): {key_of(ada): b"never committed"}}, abort=True)
    move(forge, eve)
    set_aside(forge, 0, b"nonsense")
    ended = verify(forge.registry)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "5 records: 2 registered, 1 replayed, 0 id-taken, 1 moved, 1 unreadable" in ended.stdout
    assert "users: 2 rows\n" in ended.stdout


def move(forge: Forge, registration: Registration, times: int = 1) -> None:
    """Write a registration to a wrong partition, and apply it as a worker does."""
    home = home_of(registration)
    wrong = (home + 1) % PARTITIONS
    forge.arrive(wrong, encode(registration))
    origin = Position(wrong, forge.next[wrong] - 1).token().encode()
    copy = {
        "topic": forge.registry.registrations,
        "partition": home,
        "value": encode(registration),
        "timestamp": TIMESTAMP_MS,
        "headers": [(MOVED_FROM_HEADER, origin)],
    }
    forge.commit({wrong: {}}, [copy] * times)
    # Behind the copies stands the control record of their transaction.
    offset = forge.next.get(home, 0)
    forge.next[home] = offset + times + 1
    arrived = Source(offset, encode(registration))
    forge.commit({home: {key_of(registration): row(home, arrived, registration)}})


def set_aside(forge: Forge, partition: int, value: bytes, times: int = 1) -> None:
    """Write what cannot be read, and its dead letters."""
    forge.arrive(partition, value)
    headers = {
        "source-topic": forge.registry.registrations,
        "source-partition": str(partition),
        "source-offset": str(forge.next[partition] - 1),
    }
    letter = {
        "topic": forge.registry.dead_letters,
        "partition": partition,
        "value": value,
        "headers": [(name, text.encode()) for name, text in headers.items()],
    }
    forge.commit({partition: {}}, [letter] * times)


def test_what_is_not_applied_yet_is_no_difference(forge: Forge) -> None:
    ada = user()
    forge.register(ada)
    forge.arrive(home_of(ada), encode(user("Eve")))
    forge.arrive(home_of(ada), b"nonsense")
    ended = verify(forge.registry)
    assert ended.returncode == 0
    assert "not applied yet: 2 records\n" in ended.stdout


def test_a_forged_row_is_a_difference_without_its_id(forge: Forge) -> None:
    ada = user()
    partition = forge.register(ada)
    forge.commit({partition: {key_of(ada): b"forged"}})
    ended = verify(forge.registry)
    assert ended.returncode == 1
    assert f"  {forge.registry.registrations} {partition}:0\n" in ended.stdout
    assert ended.stdout.endswith("result: 1 difference\n")
    assert ada["id"] not in ended.stdout
    assert f"'{ada['id']}'\n" in verify(forge.registry, "--ids").stdout


def test_what_was_done_twice_is_a_difference(forge: Forge) -> None:
    move(forge, user(), times=2)
    set_aside(forge, 0, b"nonsense", times=2)
    ended = verify(forge.registry, "--limit", "0")
    assert ended.returncode == 1
    assert "records that were moved more than once: 1\n" in ended.stdout
    assert "records with more than one dead letter: 1\n" in ended.stdout
    assert ended.stdout.endswith("result: 2 differences\n")


def remove_beginning(brokers: str, topic: str, partition: int, below: int) -> None:
    """Remove the records of a partition below an offset, as retention does."""
    admin = AdminClient({"bootstrap.servers": brokers})
    removed = admin.delete_records([TopicPartition(topic, partition, below)])
    for outcome in removed.values():
        outcome.result(10)


def test_where_the_beginning_is_gone_it_is_partial(forge: Forge) -> None:
    ada = user()
    partition = forge.register(ada)
    forge.arrive(partition, encode(ada))
    forge.commit({partition: {}})
    set_aside(forge, partition, b"nonsense")
    remove_beginning(forge.registry.brokers, forge.registry.registrations, partition, 1)
    ended = verify(forge.registry)
    assert ended.returncode == 2
    assert "the log begins at 1; 1 rows of users were made by records before that" in ended.stdout
    assert ended.stdout.endswith("result: no difference in what could be checked\n")


def test_a_difference_is_certain_even_where_the_beginning_is_gone(forge: Forge) -> None:
    ada = user()
    partition = forge.register(ada)
    forge.arrive(partition, encode(user("Eve")))
    remove_beginning(forge.registry.brokers, forge.registry.registrations, partition, 1)
    forge.commit({partition: {b"nobody": b"forged"}})
    assert verify(forge.registry).returncode == 1


def test_where_dead_letters_are_gone_it_is_partial(forge: Forge) -> None:
    set_aside(forge, 0, b"nonsense")
    remove_beginning(forge.registry.brokers, forge.registry.dead_letters, 0, 1)
    ended = verify(forge.registry)
    assert ended.returncode == 2
    assert "perhaps with the letters of 1 records" in ended.stdout


def test_without_a_broker_it_says_so_in_one_line(tmp_path: Path) -> None:
    ended = verify(Registry("127.0.0.1:1", tmp_path))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "KAFKA_BROKERS: no usable answer from 127.0.0.1:1 (KafkaConnectionError)"
    ]


def test_without_its_topics_it_says_so_in_one_line(registry: Registry) -> None:
    ended = verify(registry)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        f"topic {registry.registrations} does not exist: nothing can be verified"
    ]


def test_with_another_number_of_partitions_it_says_so(forge: Forge) -> None:
    other = Registry(
        forge.registry.brokers, forge.registry.folder, forge.registry.app_id, {"PARTITIONS": "4"}
    )
    ended = verify(other)
    assert ended.returncode == 2
    assert ended.stderr.startswith("PARTITIONS: topic ")
    assert ended.stderr.count("\n") == 1


def test_a_folder_without_stores_is_left_as_it_is(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    ended = verify(registry, "--stores", str(folder))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert not folder.exists()


def test_what_a_worker_wrote_is_clean_and_so_are_its_stores(registry: Registry) -> None:
    ada, eve = user("Ada"), user("Eve")
    with registry.worker() as worker:
        worker.post("/users", json=orjson.loads(encode(ada)))
        wrong = (home_of(eve) + 1) % PARTITIONS
        nonsense = {"value": b"nonsense", "partition": 3}
        kafka.produce(
            registry.brokers,
            registry.registrations,
            [{"value": encode(eve), "partition": wrong}, nonsense],
        )
        for registration in (ada, eve):
            worker.wait_for_user(registration["id"])
        wait_until(lambda: has_records(registry.brokers, registry.dead_letters), 10, "a letter")
        busy = verify(registry, "--stores", str(worker.folder))
        assert (busy.returncode, busy.stderr.count("\n")) == (2, 1)
        assert "in use by another worker" in busy.stderr
        assert verify(registry).returncode == 0
    ended = verify(registry, "--stores", str(worker.folder))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"users-{home_of(ada)}: " in ended.stdout
    forge_store(worker.folder, ada)
    ended = verify(registry, "--stores", str(worker.folder))
    assert ended.returncode == 1
    assert "rows of a store that are not as in its changelog: 1\n" in ended.stdout


def has_records(brokers: str, topic: str) -> bool:
    """Return whether anything stands in a topic."""
    return any(kafka.end_offsets(brokers, topic).values())


def forge_store(folder: Path, registration: Registration) -> None:
    """Write another row to a worker's store."""
    [path] = folder.glob(f"*/tables/users-{home_of(registration)}")
    database = Rdict(str(path), Options(raw_mode=True))
    database[key_of(registration)] = b"forged"
    database.close()
