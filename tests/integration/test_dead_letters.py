"""Dead letters on a real broker: listed, shown, replayed, refused; each replay with its mark."""

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from click.testing import CliRunner, Result
from confluent_kafka import KafkaException, Producer

from app.cli import dead_letters
from app.cli.main import main
from app.config.connection import Connection
from app.config.settings import Settings
from app.dead_letters.letters import DeadLetters
from app.dead_letters.sending import ReplayProducer, replay_producer
from app.domain.errors import FencedError, UnreadableRecordError
from app.domain.keys import partition_of
from app.domain.positions import Position
from app.domain.records import Outgoing
from app.kafka import topics
from local.broker import Broker
from tests.support import kafka
from tests.support.letters import leave_letter
from tests.support.strategies import Record
from tests.support.worker import PARTITIONS, Registry, Worker, email_of, wait_until


@pytest.fixture(scope="module")
def applied(shared_registry: Registry, worker: Worker) -> Registry:
    """Return a registry with a worker, shared with other tests."""
    assert worker.is_ready()
    return shared_registry


@pytest.fixture(scope="module")
def forged(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Return a registry without workers: tests write what these would have written."""
    return with_topics(Registry(broker.address, tmp_path_factory.mktemp("forged")))


def with_topics(registry: Registry) -> Registry:
    """Make the topics of a registry; return it."""
    asyncio.run(topics.ensure(settings_of(registry)))
    for topic in (registry.registrations, registry.dead_letters, registry.email_claims):
        wait_until(partial(has_leaders, registry, topic), 10, f"{topic} has leaders")
    return registry


def has_leaders(registry: Registry, topic: str) -> bool:
    """Return whether a topic that was just made can be read."""
    try:
        return len(kafka.end_offsets(registry.brokers, topic)) == PARTITIONS
    except KafkaException:
        return False


def settings_of(registry: Registry) -> Settings:
    """Return the settings of a registry."""
    return Settings(
        kafka_brokers=registry.brokers,
        app_id=registry.app_id,
        topic_prefix=f"{registry.app_id}.",
        partitions=PARTITIONS,
    )


def run(registry: Registry, *arguments: str) -> Result:
    """Return how a command on dead letters ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dead_letters, "settings", lambda: settings_of(registry))
        return CliRunner().invoke(main, ["dead-letters", *arguments])


def listed(registry: Registry, *arguments: str) -> list[dict[str, Any]]:
    """Return the letters that are listed."""
    result = run(registry, "list", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [orjson.loads(line) for line in result.stdout.splitlines()]


def letter_of(registry: Registry, user_id: str) -> str:
    """Return the position of the letter that names an id, once there is one."""
    where = ("--where", f"id={user_id}")
    (letter,) = wait_until(lambda: listed(registry, *where), 10, f"a letter of {user_id}")
    assert set(letter) == {"position", "topic", "cause", "detail", "time", "bytes"}
    return str(letter["position"])


def fresh() -> str:
    """Return an id that no other test uses."""
    return f"letter-{uuid.uuid4().hex}"


def home_of(user_id: str) -> int:
    """Return the partition of an id."""
    return partition_of(user_id.encode(), PARTITIONS)


def registration(user_id: str, name: object = "Ada", **more: object) -> bytes:
    """Return a registration in the public format."""
    return orjson.dumps({"id": user_id, "name": name, "email": email_of(user_id)} | more)


def update(user_id: str, name: str) -> bytes:
    """Return an update in the public format."""
    return orjson.dumps({"type": "update", "id": user_id, "name": name})


def produce(registry: Registry, **record: Any) -> None:
    """Write a record to user-registrations."""
    kafka.produce(registry.brokers, registry.registrations, [record])


# -- with a worker


def test_garbage_is_listed_by_cause_and_shown_without_control_characters(
    applied: Registry, worker: Worker
) -> None:
    user_id = fresh()
    where = ("--where", f"id={user_id}")
    for value in (b"\x1b]0;owned\x07", b"\xff", b'{"type":"upset","name":"\\u001b[31m"}'):
        headers = [("trace", b"\x1b[2J")]
        produce(applied, value=value, key=user_id.encode(), headers=headers)
    wait_until(lambda: len(listed(applied, *where)) == 3, 10, "the letters are there")
    (upset,) = listed(applied, *where, "--where", "cause=unknown-type")

    table = run(applied, "list", *where).stdout
    assert table.index("invalid-json") < table.index("unknown-type")
    assert upset["position"] in table
    assert "owned" not in table
    assert user_id not in table
    assert user_id in run(applied, "list", *where, "--ids").stdout

    shown = run(applied, "show", upset["position"])
    assert shown.exit_code == 0
    assert r'"name": "\u001b[31m"' in shown.stdout
    assert r"header trace: \u001b[2J" in shown.stdout
    outputs = [run(applied, "show", each["position"]).stdout for each in listed(applied, *where)]
    assert any(r"\u001b]0;owned\u0007" in output for output in outputs)
    for output in (table, shown.stdout, *outputs):
        assert output.replace("\n", "").isprintable()

    recent = worker.get("/dead-letters").json()
    assert {"invalid-json", "unknown-type"} <= {cause["cause"] for cause in recent["causes"]}
    assert upset["position"] in {letter["position"] for letter in recent["letters"]}

    refused = run(applied, "replay", upset["position"])
    assert refused.exit_code == 1
    assert "still cannot be read: unknown-type" in refused.stdout


def test_what_can_be_read_by_now_is_replayed_once(applied: Registry, worker: Worker) -> None:
    user_id = fresh()
    value = registration(user_id)
    position = leave_letter(applied, user_id, value)
    assert worker.get(f"/users/{user_id}").status_code == 404

    planned = run(applied, "replay", "--where", f"id={user_id}", "--dry-run")
    assert (planned.exit_code, planned.stdout.splitlines()[0]) == (
        0,
        f"{position} would be replayed",
    )
    assert letter_of(applied, user_id) == position

    done = run(applied, "replay", position)
    assert done.exit_code == 0, done.output
    user = worker.wait_for_user(user_id)
    assert f"{position} replayed as {user['position']}" in done.stdout
    assert listed(applied, "--where", f"id={user_id}") == []
    marks = {mark["position"]: mark for mark in listed(applied, "--marked")}
    assert marks[position]["mark"] == "replayed"
    assert marks[position]["replayed_as"] == user["position"]
    again = run(applied, "replay", position)
    assert (again.exit_code, "it was replayed as" in again.stdout) == (1, True)
    (copy,) = [
        message
        for message in kafka.read_all(applied.brokers, applied.registrations)
        if kafka.headers(message).get("replay-of") == position.encode()
    ]
    assert (copy.key(), copy.value()) == (None, value)
    assert kafka.headers(copy) == {"trace": b"t", "replay-of": position.encode()}


def test_a_letter_does_not_overtake_a_later_record_unless_forced(
    applied: Registry, worker: Worker
) -> None:
    user_id = fresh()
    position = leave_letter(applied, user_id, update(user_id, name="Old"))
    produce(applied, value=registration(user_id, name="New"), partition=home_of(user_id))
    worker.wait_for_user(user_id)
    refused = run(applied, "replay", position)
    assert refused.exit_code == 1
    assert "its id has a later record" in refused.stdout
    assert worker.get(f"/users/{user_id}").json()["name"] == "New"
    assert run(applied, "replay", position, "--force").exit_code == 0

    def is_old() -> bool:
        return bool(worker.get(f"/users/{user_id}").json()["name"] == "Old")

    wait_until(is_old, 10, "the letter is applied")


def test_a_record_too_large_to_keep_is_looked_at_where_it_stands(
    applied: Registry, worker: Worker
) -> None:
    user_id = fresh()
    partition = home_of(user_id)
    value = registration(user_id, name=7, junk="x" * 8_000_000)
    limits = {"compression.type": "zstd", "message.max.bytes": 10_000_000}
    record = {"value": value, "partition": partition}
    kafka.produce(applied.brokers, applied.registrations, [record], **limits)
    where = ("--where", f"partition={partition}", "--where", "cause=invalid-record")

    def huge() -> list[str]:
        return [e["position"] for e in listed(applied, *where) if e["bytes"] > 8_000_000]

    (position,) = wait_until(huge, 10, "the letter is there")
    assert "too large" in run(applied, "show", position).stdout
    refused = run(applied, "replay", position)
    assert refused.exit_code == 1
    assert "still cannot be read: invalid-record" in refused.stdout


def test_the_letters_of_an_erased_id_are_gone(applied: Registry, worker: Worker) -> None:
    user_id = fresh()
    produce(applied, value=b"nonsense", key=user_id.encode(), partition=home_of(user_id))
    position = letter_of(applied, user_id)
    answer = worker.http.delete(f"{worker.url}/users/{user_id}", headers={"Prefer": "wait=10"})
    assert answer.status_code == 200
    assert listed(applied, "--where", f"id={user_id}") == []
    shown = run(applied, "show", position).stdout
    assert "mark: erased" in shown
    assert "nonsense" not in shown
    refused = run(applied, "replay", position, "--force")
    assert (refused.exit_code, "it was erased" in refused.stdout) == (1, True)


# -- without one


def set_aside(
    registry: Registry, values: Sequence[bytes], partition: int, source: str | None = None
) -> list[str]:
    """Write records, and letters of them as if they could not be read; return their positions."""
    source = source or registry.registrations
    begin = kafka.end_offsets(registry.brokers, source)[partition]
    records = [{"value": value, "partition": partition} for value in values]
    kafka.produce(registry.brokers, source, records)
    made = DeadLetters(source, registry.dead_letters)
    error = UnreadableRecordError("unknown-type", "Not known then")
    letters = [
        made.letter(partition, Record(value, begin + number), error)
        for number, value in enumerate(values)
    ]
    kafka.produce(registry.brokers, registry.dead_letters, map(arguments_of, letters))
    return [Position(partition, begin + number).token() for number in range(len(values))]


def arguments_of(record: Outgoing) -> dict[str, Any]:
    """Return a record as arguments of librdkafka's ``produce``."""
    return {
        "key": record.key,
        "value": record.value,
        "partition": record.partition,
        "headers": list(record.headers),
    }


def written(registry: Registry, value: bytes) -> int:
    """Return how many committed records have a value."""
    found = kafka.read_all(registry.brokers, registry.registrations)
    return [message.value() for message in found].count(value)


def is_open(registry: Registry, user_id: str) -> bool:
    """Return whether an id has a letter that is open."""
    return bool(listed(registry, "--where", f"id={user_id}"))


def test_letters_of_an_id_are_replayed_in_order_and_do_not_refuse_each_other(
    registry: Registry,
) -> None:
    forged = with_topics(registry)
    user_id = fresh()
    values = [registration(user_id), *(update(user_id, f"N{number}") for number in range(150))]
    set_aside(forged, values, home_of(user_id))
    done = run(forged, "replay", "--all")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "151 replayed, 0 refused")
    records = kafka.read_all(forged.brokers, forged.registrations)
    assert [message.value() for message in records] == values * 2
    assert listed(forged) == []


def test_a_later_record_in_the_partition_refuses_only_its_id(forged: Registry) -> None:
    ids = [user_id for user_id in (fresh() for _ in range(99)) if home_of(user_id) == 3][:2]
    early, late = ids
    positions = set_aside(forged, [registration(early), registration(late)], 3)
    produce(forged, value=None, key=early.encode(), partition=3)
    done = run(forged, "replay", *positions)
    assert done.exit_code == 1
    assert f"{positions[0]} refused: its id has a later record" in done.stdout
    assert f"{positions[1]} replayed as" in done.stdout
    assert is_open(forged, early)
    assert not is_open(forged, late)


def test_letters_of_internal_topics_are_not_replayed(forged: Registry) -> None:
    (position,) = set_aside(forged, [b"nonsense"], 2, forged.email_claims)
    assert forged.email_claims in run(forged, "show", position).stdout
    refused = run(forged, "replay", position, "--force")
    assert (refused.exit_code, "only records of" in refused.stdout) == (1, True)


@contextmanager
def failing_commit() -> Iterator[None]:
    """Let the first commit fail as it does when the broker is lost just before it."""
    commit = AIOKafkaProducer.commit_transaction

    async def fail(_: AIOKafkaProducer) -> None:
        AIOKafkaProducer.commit_transaction = commit
        raise KafkaError("lost")

    AIOKafkaProducer.commit_transaction = fail
    try:
        yield
    finally:
        AIOKafkaProducer.commit_transaction = commit


def test_a_replay_that_is_not_committed_leaves_nothing_and_can_be_done_again(
    forged: Registry,
) -> None:
    user_id = fresh()
    value = registration(user_id)
    (position,) = set_aside(forged, [value], home_of(user_id))
    with failing_commit():
        failed = run(forged, "replay", position)
    assert failed.exit_code == 2
    assert "may not be committed" in failed.stderr
    assert written(forged, value) == 1
    assert is_open(forged, user_id)
    assert run(forged, "replay", position).exit_code == 0
    assert written(forged, value) == 2
    assert not is_open(forged, user_id)


def test_a_record_that_comes_just_before_its_replay_refuses_it(
    forged: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [user_id for user_id in (fresh() for _ in range(99)) if home_of(user_id) == 3][:2]
    positions = set_aside(forged, [registration(user_id) for user_id in ids], 3)
    send = ReplayProducer.send

    async def be_slow(producer: ReplayProducer, records: Sequence[Outgoing]) -> list[int]:
        monkeypatch.setattr(ReplayProducer, "send", send)
        newer = update(ids[0], "Newer")
        await asyncio.to_thread(produce, forged, value=newer, partition=3)
        return await send(producer, records)

    monkeypatch.setattr(ReplayProducer, "send", be_slow)
    done = run(forged, "replay", *positions)
    assert done.exit_code == 1
    assert f"{positions[0]} refused: its id has a later record" in done.stdout
    assert f"{positions[1]} replayed as" in done.stdout
    assert [written(forged, registration(user_id)) for user_id in ids] == [1, 2]
    assert [is_open(forged, user_id) for user_id in ids] == [True, False]


def test_a_record_that_may_be_committed_first_refuses_a_replay(forged: Registry) -> None:
    user_id = fresh()
    (position,) = set_aside(forged, [registration(user_id)], home_of(user_id))
    mover = Producer(
        {"bootstrap.servers": forged.brokers, "transactional.id": f"{forged.app_id}-mover"}
    )
    mover.init_transactions(10)
    mover.begin_transaction()
    mover.produce(forged.registrations, update(user_id, "Newer"), partition=home_of(user_id))
    assert mover.flush(10) == 0
    refused = run(forged, "replay", position)
    assert (refused.exit_code, "has a later record" in refused.stdout) == (1, True)
    mover.abort_transaction(10)
    assert run(forged, "replay", position).exit_code == 0


async def test_a_second_command_fences_the_first(registry: Registry) -> None:
    await topics.ensure(settings_of(registry))
    transactional_id = f"{registry.app_id}-dead-letters"
    record = Outgoing(registry.registrations, 0, b"k", b"v")
    async with replay_producer(Connection(registry.brokers), transactional_id) as first:
        async with first.transaction():
            await first.send([record])
        async with replay_producer(Connection(registry.brokers), transactional_id) as second:
            with pytest.raises(FencedError, match="another"):
                async with first.transaction():
                    await first.send([record])
            async with second.transaction():
                await second.send([record])
    assert len(await asyncio.to_thread(kafka.read_all, registry.brokers, record.topic)) == 2


@pytest.mark.parametrize(
    "command", [["list"], ["show", Position(0, 0).token()], ["replay", "--all"]]
)
def test_without_topics_or_broker_one_line_says_so(
    registry: Registry, command: Sequence[str]
) -> None:
    missing = run(registry, *command)
    assert missing.exit_code == 2
    assert missing.stderr == f"topic {registry.dead_letters} does not exist\n"
    away = run(Registry("127.0.0.1:1", registry.folder), *command)
    assert (away.exit_code, away.stderr.count("\n")) == (2, 1)
    assert "no usable answer" in away.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay"],
        ["replay", "--all", Position(0, 0).token()],
        ["replay", "garbage"],
        ["show", "garbage"],
        ["list", "--where", "colour=red"],
    ],
)
def test_wrong_arguments_are_refused(registry: Registry, arguments: Sequence[str]) -> None:
    assert run(registry, *arguments).exit_code == 2


def test_a_position_without_a_letter_is_told(forged: Registry) -> None:
    nowhere = Position(0, 77).token()
    assert run(forged, "show", nowhere).exit_code == 1
    refused = run(forged, "replay", nowhere)
    assert (refused.exit_code, "there is no such dead letter" in refused.stdout) == (1, True)
    where = ("--where", f"id={fresh()}")
    assert "No dead letters." in run(forged, "list", *where).stdout
    assert run(forged, "replay", *where).exit_code == 0
