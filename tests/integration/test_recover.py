"""Ways out, by the steps of their runbooks, on registries that stopped."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Message

from app.config.settings import Settings
from app.domain.keys import partition_of
from app.domain.positions import token
from app.engine.marker import MARKER_KEY, Marker
from app.kafka.partitioning import Change, Partitioning, topic_name
from local.broker import Broker
from tests.integration.test_lost_records import (
    delete_below,
    last_words,
    make_anew,
    produce,
    registration,
    settle,
)
from tests.integration.test_repartition import run
from tests.support import kafka
from tests.support.clients import assert_all_found
from tests.support.worker import PARTITIONS, Registry, Worker, wait_until


@pytest.fixture
def impatient(broker: Broker, tmp_path: Path) -> Registry:
    """Return a registry that misses a worker sooner than others."""
    return Registry(broker.address, tmp_path, settings={"SESSION_TIMEOUT_SECONDS": "6"})


FULLER = "the store on this machine has more than its changelog"


def recover(worker: Worker, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as the worker's user would, once no worker is in the group."""
    registry = worker.registry
    wait_until(lambda: kafka.has_no_members(registry.brokers, registry.app_id), 30, "nobody is in")
    return run(worker, "recover", *arguments, given=answer)


def test_a_changelog_that_was_deleted_is_written_anew_from_a_store(impatient: Registry) -> None:
    registry = impatient
    worker, other = registry.worker(1), registry.worker(2)
    with worker:
        ids = produce(registry, 200)
        settle(worker, ids)
    for topic in (registry.users_changelog, registry.emails_changelog):
        make_anew(registry, topic)

    # It looks like a new registry, but for what its group has applied, and for the stores.
    lost = run(worker, "verify", "--stores", str(worker.folder))
    assert lost.returncode == 1, lost.stdout
    for changelog, source in (
        (registry.users_changelog, registry.registrations),
        (registry.users_changelog, registry.email_decisions),
        (registry.emails_changelog, registry.email_claims),
    ):
        assert f"  {changelog} 0 is at 0 of {source}, which was applied up to " in lost.stdout
    assert f"stores that are ahead of their changelog: {2 * PARTITIONS}\n" in lost.stdout
    worker.launch()
    # Another one has no store: it does not begin again from nothing, either.
    other.launch()
    assert FULLER in last_words(worker)
    told = last_words(other)
    assert "-changelog, partition " in told
    assert "the changelog is empty, and " in told

    declined = recover(worker, "changelog", str(worker.folder), answer="no\n")
    assert declined.returncode == 0
    assert declined.stdout.splitlines()[-1] == "nothing was done"
    assert declined.stdout.count("; the changelog has nothing") == 2 * PARTITIONS
    done = recover(worker, "changelog", str(worker.folder), "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("start the workers")
    again = recover(worker, "changelog", str(worker.folder), "--yes")
    assert again.stdout == "no store has more than its changelog\n"

    with worker:
        assert_all_found(worker, ids)
        assert "a store is rebuilt" not in worker.log.read_text()
        assert verified(worker).endswith("result: clean\n")
        with other:  # by the changelogs alone
            assert_all_found(other, ids)
        assert_refused(worker, "changelog", str(other.folder))


@pytest.mark.soak
def test_a_changelog_that_lost_its_end_is_written_anew_from_a_store(impatient: Registry) -> None:
    registry, worker = impatient, impatient.worker()
    changelogs = registry.users_changelog, registry.emails_changelog
    with worker:
        ids = produce(registry, 100)
        settle(worker, ids)
        half = {topic: kafka.read_all(registry.brokers, topic) for topic in changelogs}
        ids += produce(registry, 100)
        settle(worker, ids)
    for topic in changelogs:
        make_anew(registry, topic)
        write_again(registry, topic, half[topic])
    worker.launch()
    assert FULLER in last_words(worker)
    assert recover(worker, "changelog", str(worker.folder), "--yes").returncode == 0
    with worker:
        assert_all_found(worker, ids)
        assert verified(worker).endswith("result: clean\n")


def write_again(registry: Registry, topic: str, records: Sequence[Message]) -> None:
    """Write the first records of a topic to the one that was made in its place."""
    again = ({"key": r.key(), "value": r.value(), "partition": r.partition()} for r in records)
    kafka.produce(registry.brokers, topic, again)


def assert_refused(worker: Worker, *arguments: str) -> None:
    """Fail unless the command says that a worker runs, and does nothing."""
    refused = run(worker, "recover", *arguments, "--yes")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("APP_ID: workers are in the group ")
    assert refused.stderr.count("\n") == 1


def test_while_a_worker_runs_nothing_is_recovered(worker: Worker) -> None:
    assert_refused(worker, "gap")
    assert_refused(worker, "skip", worker.registry.registrations, "0", "0", "--reason", "none")


def test_a_gap_is_named_and_passed(impatient: Registry) -> None:
    registry = impatient
    worker = registry.worker()
    with worker:
        ids = produce(registry, 200)
        settle(worker, ids)
    before = kafka.end_offsets(registry.brokers, registry.registrations)
    produce(registry, 400)
    ends = kafka.end_offsets(registry.brokers, registry.registrations)
    begins = {number: (before[number] + ends[number]) // 2 for number in ends}
    delete_below(registry, registry.registrations, begins)
    seal(registry)
    worker.launch()
    assert "were deleted before they were applied" in last_words(worker)
    gap = "applied up to {}, the log begins at {}; what stood between was removed before it was"
    found = run(worker, "verify")
    assert found.returncode == 2, found.stdout
    for number, begin in begins.items():
        assert gap.format(before[number], begin) in found.stdout

    declined = recover(worker, "gap", answer="no\n")
    assert declined.stdout.splitlines()[-1] == "nothing was done"
    worker.launch()
    assert "were deleted before they were applied" in last_words(worker)

    refused = recover_while_a_repartition_begins(worker, "gap")
    assert refused.startswith("the registry is being repartitioned or saved")
    assert not kafka.read_all(registry.brokers, registry.dead_letters)

    done = recover(worker, "gap", "--yes")
    assert done.returncode == 0, done.stderr
    for number, begin in begins.items():
        named = f"{registry.registrations}, partition {number}: records {before[number]} to "
        assert f"{named}{begin - 1} are lost" in done.stdout
    letters = kafka.read_all(registry.brokers, registry.dead_letters)
    summaries = [orjson.loads(each.value() or b"") for each in letters]
    assert {each["partition"]: (each["first"], each["last"]) for each in summaries} == {
        number: (before[number], begin - 1) for number, begin in begins.items()
    }
    assert recover(worker, "gap", "--yes").stdout.startswith("there is no gap")
    assert not any(marker.is_sealed for marker in markers(registry).values())

    with worker:
        assert_all_found(worker, [*ids, *produce(registry, 20)])
        found = run(worker, "verify")
        # The beginning is gone, so only part can be checked; and that is as it should be.
        assert found.returncode == 2, found.stdout
        for number, begin in begins.items():
            place = f"{registry.registrations}, partition {number}: records {before[number]} to "
            assert f"{place}{begin - 1} were lost, and accepted as lost" in found.stdout


def recover_while_a_repartition_begins(worker: Worker, *arguments: str) -> str:
    """Run the command, begin a repartition before the operator agrees; return the last line."""
    registry = worker.registry
    topic = topic_name(Settings(app_id=registry.app_id, topic_prefix=f"{registry.app_id}."))
    (newest,) = kafka.read_all(registry.brokers, topic)[-1:]
    before = Partitioning.model_validate_json(newest.value() or b"")
    wait_until(lambda: kafka.has_no_members(registry.brokers, registry.app_id), 30, "nobody is in")
    asked = subprocess.Popen(
        [*worker.command[:-1], "recover", *arguments],
        env=worker.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert asked.stdout is not None
    assert "are lost" in asked.stdout.readline()
    write_partitioning(registry, topic, before.changing(Change(partitions=2 * PARTITIONS)))
    _, told = asked.communicate("yes\n", timeout=60)
    assert asked.returncode == 2, told
    write_partitioning(registry, topic, before)
    return told.removeprefix("Type yes to do it: ")


def write_partitioning(registry: Registry, topic: str, partitioning: Partitioning) -> None:
    """Write how a registry is partitioned."""
    row = partitioning.model_dump_json(exclude_none=True).encode()
    kafka.produce(registry.brokers, topic, [{"key": b"partitioning", "value": row}])


def seal(registry: Registry) -> None:
    """Seal the users' changelog, as a repartition does that is given up afterwards."""
    records = [
        {"key": MARKER_KEY, "value": marker.sealed().encode(), "partition": number}
        for number, marker in markers(registry).items()
    ]
    kafka.produce(registry.brokers, registry.users_changelog, records)


def markers(registry: Registry) -> dict[int, Marker]:
    """Return the newest marker of each partition of the users' changelog."""
    return {
        kafka.place(record)[0]: Marker.decode(record.value() or b"")
        for record in kafka.read_all(registry.brokers, registry.users_changelog)
        if record.key() == MARKER_KEY
    }


POISON = "user-that-cannot-be-decided"
HOME = partition_of(POISON.encode(), PARTITIONS)


def faulty(registry: Registry) -> Worker:
    """Return a worker that cannot decide any record of an id."""
    worker = registry.worker()
    worker.command = [sys.executable, "-m", "tests.support.faulty_worker", "cannot-decide", POISON]
    return worker


def poison(registry: Registry) -> None:
    """Write a record of the id."""
    record = {"key": POISON.encode(), "value": registration(POISON), "partition": HOME}
    kafka.produce(registry.brokers, registry.registrations, [record])


def test_a_record_that_cannot_be_decided_is_named_and_skipped(impatient: Registry) -> None:
    registry, worker = impatient, faulty(impatient)
    worker.start()
    ids = produce(registry, 20, HOME)
    poison(registry)
    ids += produce(registry, 20, HOME)
    place = f"{registry.registrations}, partition {HOME}: record 20"
    assert f"{place}: deciding fails (LookupError); see docs/operations.md" in last_words(worker)
    assert POISON not in worker.log.read_text()
    done = skip(registry.worker(2), registry.registrations, HOME, 20)
    assert done.returncode == 0, done.stderr
    with worker:
        assert_all_found(worker, ids)
        answer = worker.get(f"/registrations/{token(HOME, 20)}")
        assert answer.json()["outcome"] == "dead-letter"
    assert f"{place} was skipped (a bug; by " in verified(registry.worker(2))


@pytest.mark.soak
def test_only_the_next_record_is_skipped_and_it_can_be_replayed_later(impatient: Registry) -> None:
    """It is the first one of all, so that there is no marker yet."""
    registry, worker, operator = impatient, faulty(impatient), impatient.worker(2)
    assert run(operator, "topics").returncode == 0
    poison(registry)
    ids = produce(registry, 20, HOME)
    worker.launch()
    place = f"{registry.registrations}, partition {HOME}"
    assert f"{place}: record 0: deciding fails" in last_words(worker)

    wrong = skip(operator, registry.registrations, HOME, 1)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == f"{place}: 0 is the next record to be applied\n"
    claims = skip(operator, registry.email_claims, HOME, 0)
    assert claims.stderr.startswith(f"{registry.email_claims}: only records of ")
    declined = skip(operator, registry.registrations, HOME, 0, answer="no\n")
    assert declined.stdout.splitlines()[-1] == "nothing was done"
    done = skip(operator, registry.registrations, HOME, 0)
    assert done.returncode == 0, done.stderr

    # A version without the bug applies it after all.
    with operator:
        assert_all_found(operator, ids)
        replayed = run(operator, "dead-letters", "replay", token(HOME, 0))
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr
        operator.wait_for_user(POISON)
    assert f"{place}: record 0 was skipped (a bug; by " in verified(operator)


def skip(
    worker: Worker, topic: str, partition: int, offset: int, answer: str = "yes\n"
) -> subprocess.CompletedProcess[str]:
    """Skip a record."""
    place = (topic, str(partition), str(offset))
    return recover(worker, "skip", *place, "--reason", "a bug", answer=answer)


def verified(worker: Worker) -> str:
    """Return what `verify` says; fail if it finds a difference."""
    ended = run(worker, "verify")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
