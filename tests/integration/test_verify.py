"""``python -m app verify`` on a real broker: what it says, and its exit status."""

import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from rocksdict import Options, Rdict

from app.config.settings import settings
from app.domain.email_claims import encode_claim, encode_holder
from app.domain.keys import partition_of
from app.domain.positions import token
from app.domain.records import decode_row, encode_row
from app.engine.marker import MARKER_KEY, Marker
from app.ops.verify.findings import Difference
from tests.support import kafka, preloaded
from tests.support.worker import PARTITIONS, Registry, Worker, wait_until


def run(registry: Registry, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return how a command of the app ended."""
    return preloaded.run(registry.worker().environment, command, *arguments)


def verify(registry: Registry, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return how a verification ended."""
    return run(registry, "verify", *arguments)


def assert_clean(ended: subprocess.CompletedProcess[str]) -> None:
    """Fail unless a verification found no difference, and could check everything."""
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    assert ended.stdout.endswith("result: clean\n")


@pytest.fixture
def topics(registry: Registry) -> Registry:
    """Return a registry that has its topics, and no worker."""
    assert run(registry, "topics").returncode == 0
    return registry


def home_of(key: str | bytes) -> int:
    """Return the partition of an id or of an email key."""
    return partition_of(key.encode() if isinstance(key, str) else key, PARTITIONS)


# -- what cannot be verified, or only in part


def test_an_empty_registry_is_clean(topics: Registry) -> None:
    assert_clean(verify(topics))


def test_what_is_not_applied_yet_is_no_difference(topics: Registry) -> None:
    records = [{"value": b"nonsense", "partition": 1}, {"value": b"more", "partition": 2}]
    kafka.produce(topics.brokers, topics.registrations, records)
    ended = verify(topics)
    assert_clean(ended)
    assert "not applied yet: 2 records\n" in ended.stdout
    remove_beginning(topics, topics.registrations, 1)
    ended = verify(topics)
    assert ended.returncode == 2
    assert f"partial: {topics.registrations} 1 begins at 1: 0 rows" in ended.stdout
    assert ended.stdout.endswith("result: no difference in what could be checked\n")


def remove_beginning(registry: Registry, topic: str, partition: int) -> None:
    """Remove the first record of a partition, as retention does."""
    admin = AdminClient({"bootstrap.servers": registry.brokers})
    for removed in admin.delete_records([TopicPartition(topic, partition, 1)]).values():
        removed.result(10)


def test_without_a_broker_it_says_so_in_one_line(tmp_path: Path) -> None:
    ended = verify(Registry("127.0.0.1:1", tmp_path))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "KAFKA_BROKERS: no usable answer from 127.0.0.1:1 (KafkaConnectionError)"
    ]


def test_without_its_topics_it_says_so_in_one_line(registry: Registry) -> None:
    ended = verify(registry)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [f"topic {registry.registrations} does not exist"]


def test_with_another_number_of_partitions_it_says_so(topics: Registry) -> None:
    ended = verify(replace(topics, settings={"PARTITIONS": str(PARTITIONS + 1)}))
    assert ended.returncode == 2
    assert ended.stderr.startswith("PARTITIONS: topic ")
    assert ended.stderr.count("\n") == 1


def test_a_folder_without_stores_is_left_as_it_is(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    ended = verify(registry, "--stores", str(folder))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert not folder.exists()


# -- what a worker has written


def registration(user_id: str, email: str) -> bytes:
    """Return a registration as it travels."""
    return orjson.dumps({"id": user_id, "name": "N", "email": email})


def update(user_id: str, **members: str) -> bytes:
    """Return an update as it travels."""
    return orjson.dumps({"type": "update", "id": user_id, **members})


def produce_all_kinds(registry: Registry, users: int) -> str:
    """Write records of all kinds, some in wrong partitions; return the id of who stays."""
    run_id = uuid.uuid4().hex[:8]
    ids = [f"user-{run_id}-{number}" for number in range(users)]
    stays = ids[0]
    records: list[dict[str, Any]] = [
        {"value": registration(stays, f"{run_id}@example.com")},
        {"value": b"nonsense", "partition": 2},
        {"value": None, "partition": 3},
    ]
    for number, user_id in enumerate(ids[1:]):
        # Every address is wanted by three.
        shared = f"{run_id}-{number // 3}@example.com"
        commands: list[dict[str, Any]] = [
            {"value": registration(user_id, shared)},
            {"value": registration(user_id, shared)},
            {"value": update(user_id, email=f"{run_id}-{number // 3 + 1}@example.com")},
            {"value": update(user_id, name="Another")},
            {"value": orjson.dumps({"id": user_id, "name": 7}), "partition": number % PARTITIONS},
            {"value": None, "key": user_id.encode(), "partition": number % PARTITIONS},
            {"value": registration(user_id, f"{run_id}-{number}@example.org")},
        ]
        records += commands[: 3 + number % 5]
    kafka.produce(registry.brokers, registry.registrations, records)
    return stays


def nothing_is_left(registry: Registry) -> bool:
    """Return whether the group has committed the ends of all partitions."""
    before = ends(registry)
    done = all(
        kafka.committed(registry.brokers, registry.app_id, topic) == of_topic
        for topic, of_topic in before.items()
    )
    return done and ends(registry) == before


def ends(registry: Registry) -> Mapping[str, Mapping[int, int]]:
    """Return where the partitions end that have records, of each topic that is consumed."""
    return {
        topic: {n: end for n, end in kafka.end_offsets(registry.brokers, topic).items() if end}
        for topic in registry.sources
    }


def test_what_a_worker_writes_is_clean_and_what_is_forged_afterwards_is_found(
    registry: Registry,
) -> None:
    with registry.worker() as worker:
        stays = produce_all_kinds(registry, 100)
        assert_clean(verify(registry))
        worker.wait_for_user(stays)
        wait_until(lambda: nothing_is_left(registry), 20, "everything is applied")
        busy = verify(registry, "--stores", str(worker.folder))
        assert (busy.returncode, busy.stderr.count("\n")) == (2, 1)
        assert "in use by another worker" in busy.stderr
    ended = verify(registry, "--stores", str(worker.folder))
    assert_clean(ended)
    assert " in flight" not in ended.stdout
    assert f"users-{home_of(stays)}: " in ended.stdout

    secret = verify(replace(registry, settings={"EMAIL_SECRET": "another secret, and a long one"}))
    assert (secret.returncode, secret.stdout, secret.stderr.count("\n")) == (2, "", 1)
    assert "was written under another EMAIL_SECRET" in secret.stderr

    change_row(registry, stays)
    change_page(registry, home_of(stays))
    settled = settle_without_verdict(registry, stays)
    # A store that is behind its changelog may have rows that this one lacks.
    change_stores(worker, stays, (settled + 1) % PARTITIONS)
    ended = verify(registry, "--ids", "--stores", str(worker.folder))
    assert ended.returncode == 1
    told = dict(line.rsplit(": ", 1) for line in ended.stdout.splitlines() if ": " in line)
    assert {kind: told[kind] for kind in Difference if kind in told} == dict.fromkeys(
        [
            Difference.DIFFERENT_ROW,
            Difference.KEPT_OUTCOME,
            Difference.EXTRA_CLAIM,
            Difference.MISSING_VERDICT,
            Difference.HELD_BY_NOBODY,
            Difference.STORE_DIFFERENT_ROW,
            Difference.STORE_EXTRA_ROW,
        ],
        "1",
    )
    assert f"'{stays}'\n" in ended.stdout


def newest(registry: Registry, topic: str, partition: int) -> dict[bytes, bytes]:
    """Return the rows in a partition of a changelog, by key."""
    messages = kafka.read_all(registry.brokers, topic)
    rows = {m.key() or b"": m.value() for m in messages if m.partition() == partition}
    return {key: row for key, row in rows.items() if row is not None}


def forge(registry: Registry, topic: str, partition: int, key: bytes, value: bytes) -> None:
    """Write a record that no worker has written."""
    record = {"key": key, "value": value, "partition": partition}
    kafka.produce(registry.brokers, topic, [record])


def change_row(registry: Registry, user_id: str) -> None:
    """Let a user's row have another name."""
    home = home_of(user_id)
    row = decode_row(newest(registry, registry.users_changelog, home)[user_id.encode()])
    changed = encode_row({**row, "name": "Another"})
    forge(registry, registry.users_changelog, home, user_id.encode(), changed)


def change_page(registry: Registry, partition: int) -> None:
    """Let the first record of a partition have another outcome."""
    rows = newest(registry, registry.users_changelog, partition)
    key = min(key for key in rows if key.startswith(b"\xffoutcomes"))
    changed = bytes([rows[key][0] % 8 + 1]) + rows[key][1:]
    forge(registry, registry.users_changelog, partition, key, changed)


def settle_without_verdict(registry: Registry, user_id: str) -> int:
    """Claim an address for a user, grant it, and tell nobody; return the partition of emails."""
    email_key = settings().email_keys.key(f"{uuid.uuid4().hex}@example.com")
    home, attempt = home_of(email_key), token(home_of(user_id), 0)
    claim = encode_claim("claim", user_id, attempt)
    forge(registry, registry.email_claims, home, email_key, claim)
    offset = kafka.end_offsets(registry.brokers, registry.email_claims)[home]
    rows = newest(registry, registry.emails_changelog, home)
    marker = Marker.decode(rows[MARKER_KEY]).after(registry.email_claims, offset)
    holder = encode_holder({"id": user_id, "attempt": attempt})
    forge(registry, registry.emails_changelog, home, email_key, holder)
    forge(registry, registry.emails_changelog, home, MARKER_KEY, marker.encode())
    return home


def change_stores(worker: Worker, user_id: str, number: int) -> None:
    """Write to the stores of a user and of a partition of emails what no changelog has."""
    users, emails = f"users-{home_of(user_id)}", f"emails-{number}"
    for name, key in ((users, user_id.encode()), (emails, b"nobody")):
        [path] = worker.folder.glob(f"*/tables/{name}")
        database = Rdict(str(path), Options(raw_mode=True))
        database[key] = b"forged"
        database.close()
