"""Verifying, without Kafka: what is a difference, what is none, and what cannot be told."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from faust.types import TP

from app.cli.main import main
from app.config.settings import settings
from app.dead_letters.summaries import SKIPPED, Summary
from app.domain import decisions
from app.domain.addresses import EmailKeys
from app.domain.counts import Count
from app.domain.decisions import MAX_QUEUE, Decisions
from app.domain.email_claims import encode_claim, encode_holder, encode_verdict
from app.domain.errors import SettingsError
from app.domain.keys import encode_key, partition_of
from app.domain.outcomes import Decided, Outcome
from app.domain.parsing import MOVED_FROM_HEADER
from app.domain.positions import Position, token
from app.domain.records import decode_row, encode_outcome, encode_row
from app.engine.marker import COUNT_KEY, MARKER_KEY, MOVES_PREFIX, OUTCOMES_PREFIX, Marker
from app.engine.partitions import Changes, short_id
from app.kafka.partitioning import Partitioning
from app.ops.recover.skip import Skip
from app.ops.verify.findings import CLEAN, DIFFERENCES, PARTIAL, Difference, Findings
from app.ops.verify.logs import Logs
from app.ops.verify.multisets import Entry, Multiset
from app.ops.verify.outcomes import OutcomesFold
from app.ops.verify.places import Span
from app.ops.verify.run import Verification
from app.ops.verify.stores import ChangelogAt, Store, StoreComparison
from tests.support.simulation import (
    DECIDING,
    FIRST_ID,
    PARTITIONS,
    Log,
    Record,
    SimulatedReader,
    Simulation,
    topics,
)

REGISTRATIONS, DECISIONS, CLAIMS = (
    topics.user_registrations,
    topics.email_decisions,
    topics.email_claims,
)
OUTCOMES, LETTERS = topics.registration_outcomes, topics.dead_letter
USERS, EMAILS = topics.users_changelog, topics.emails_changelog

#: Nothing was ever split.
WHOLE = Partitioning(partitions=PARTITIONS)

email_key = settings().email_keys.key


async def verified(
    simulation: Simulation,
    between: Callable[[], None] = lambda: None,
    findings: Findings | None = None,
    now: Partitioning = WHOLE,
    applied: Mapping[TP, int] = MappingProxyType({}),
    **reading: Any,
) -> Findings:
    """Return what a verification finds; ``between`` is called before each look at an end."""
    findings = findings or Findings()
    reader = cast(Any, SimulatedReader(simulation, between, **reading))
    logs = await Logs.find(topics, reader, reader)
    verification = Verification(settings(), now, topics, logs, reader, findings)
    await verification.find_markers(applied)
    await verification.run(())
    return findings


def assert_status(findings: Findings, status: int) -> None:
    """Fail, with the report, unless a verification has ended so."""
    assert findings.status == status, "\n".join(findings.lines())


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Simulation:
    """Return an empty registry."""
    return Simulation(monkeypatch)


@pytest.fixture
def settled(registry: Simulation) -> Simulation:
    """Return a registry in which everything has happened, and nothing is in flight."""
    registry.arrive_many(300)
    registry.run()
    return registry


# -- what is right


def seeded(monkeypatch: pytest.MonkeyPatch, seed: int) -> Iterator[Simulation]:
    """Yield a registry now and then, while it works."""
    simulation = Simulation(monkeypatch, Random(seed))
    for _ in range(4):
        simulation.arrive_many(60, ids=simulation.random.choice([3, 12, 40]))
        simulation.run(simulation.random.randrange(60))
        yield simulation


def working(simulation: Simulation) -> Callable[[], None]:
    """Return what lets a registry work on a little, and sometimes gives it more to do."""

    def work() -> None:
        simulation.run(simulation.random.randrange(10))
        if simulation.random.random() < 0.3:
            simulation.arrive_many(5)

    return work


@pytest.mark.parametrize("places", [MAX_QUEUE, 2])
@pytest.mark.parametrize("seed", range(5))
async def test_whatever_the_order_of_applying_and_whenever_one_looks_it_is_clean(
    seed: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MAX_QUEUE", places)
    for simulation in seeded(monkeypatch, seed):
        assert_status(await verified(simulation, working(simulation)), CLEAN)
    simulation.run()
    findings = await verified(simulation)
    assert_status(findings, CLEAN)
    assert not [note for note in findings.notes if "in flight" in note or "not applied" in note]
    assert places == MAX_QUEUE or len(rejected_in(simulation)) > 5


@pytest.mark.parametrize("places", [MAX_QUEUE, 2])
@pytest.mark.parametrize("seed", range(5))
async def test_whatever_beginnings_are_gone_is_no_difference(
    seed: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MAX_QUEUE", places)
    for simulation in seeded(monkeypatch, seed):
        for topic in (REGISTRATIONS, CLAIMS, DECISIONS, OUTCOMES, LETTERS):
            table = "emails" if topic is CLAIMS else "users"
            for number in range(PARTITIONS):
                log, marker = simulation.log(topic, number), simulation.markers[table, number]
                applied = marker.next.get(topic.name, log.end)
                if applied > log.start and simulation.random.random() < 0.6:
                    log.remove_below(simulation.random.randint(log.start, applied))
        if seed % 2:
            simulation.tidy()
        assert (await verified(simulation, working(simulation))).status != DIFFERENCES
    simulation.run()
    assert_status(await verified(simulation), PARTIAL)


async def test_an_empty_registry_is_clean(registry: Simulation) -> None:
    assert_status(await verified(registry), CLEAN)


async def test_what_is_told_counts_each_kind_of_record(registry: Simulation) -> None:
    home = register(registry, "ada", "ada@example.com")
    registry.arrive((home + 1) % PARTITIONS, b"ada", None)
    registry.arrive(home, None, b"nonsense")
    registry.run()
    lines = list((await verified(registry)).lines())
    assert (
        "user-registrations: 8 partitions, 4 records: 0 pending, 1 registered, 0 replayed, "
        "0 id-taken, 0 email-taken, 0 unknown-id, 0 updated, 1 erased, 1 moved, 1 dead-letter, "
        "0 too-many-pending, 0 version-mismatch"
    ) in lines
    assert "users: 0 rows" in lines
    assert lines[-1] == "result: clean"


def register(simulation: Simulation, user_id: str, email: str) -> int:
    """Write a registration to its partition, and return that."""
    home = partition_of(user_id.encode(), PARTITIONS)
    command = {"id": user_id, "name": "N", "email": email}
    simulation.arrive(home, None, orjson.dumps(command))
    return home


def apply_registrations(simulation: Simulation, home: int) -> None:
    """Apply what stands in a partition of ``user-registrations``, and no verdicts."""
    changes = Changes()
    records = simulation.log(REGISTRATIONS, home).records
    DECIDING.decide_registrations(home, records, changes)
    following = records[-1].offset + 1
    marker = simulation.markers["users", home].after(REGISTRATIONS.name, following)
    simulation.commit("users", home, changes, marker)


# -- rows


def rows_of(log: Log) -> list[int]:
    """Return where the newest records of the rows in a changelog are."""
    keys = {record.key or b"" for record in log.records}
    newest = [log.newest(key) for key in keys if not key.startswith(b"\xff")]
    return [index for index in newest if log.records[index].value is not None]


def a_row(simulation: Simulation, topic: Any) -> tuple[Log, int]:
    """Return a changelog partition, and where the newest record of a row in it is."""
    logs = [simulation.log(topic, number) for number in range(PARTITIONS)]
    return next((log, min(rows_of(log))) for log in logs if rows_of(log))


def change(log: Log, index: int, **members: Any) -> None:
    """Change a record."""
    log.records[index] = replace(log.records[index], **members)


async def test_a_row_of_users_that_is_changed_is_different(settled: Simulation) -> None:
    log, index = a_row(settled, USERS)
    row = decode_row(log.records[index].value or b"")
    change(log, index, value=encode_row({**row, "name": "Another"}))
    assert (await verified(settled)).counts == {Difference.DIFFERENT_ROW: 1}


async def test_a_row_of_users_of_another_order_is_different(settled: Simulation) -> None:
    log, index = a_row(settled, USERS)
    row = orjson.loads(log.records[index].value or b"")
    change(log, index, value=orjson.dumps(dict(reversed(row.items()))))
    assert (await verified(settled)).counts == {Difference.DIFFERENT_ROW: 1}


async def test_a_row_of_users_that_is_gone_is_missing_and_its_address_is_held_by_nobody(
    settled: Simulation,
) -> None:
    log, index = a_row(settled, USERS)
    change(log, index, value=None)
    findings = await verified(settled)
    assert findings.counts == {
        Difference.MISSING_ROW: 1,
        Difference.HELD_BY_NOBODY: 1,
        Difference.COUNT: 1,
    }


async def test_a_row_of_users_that_no_record_makes_is_extra(settled: Simulation) -> None:
    settled.log(USERS, 3).records.insert(0, Record(0, b"nobody", b"forged"))
    findings = await verified(settled)
    assert findings.counts == {Difference.EXTRA_ROW: 1}
    assert f"  {USERS.name} 3:0" in findings.lines()


async def test_ids_are_told_only_if_asked_for(settled: Simulation) -> None:
    settled.log(USERS, 3).records.insert(0, Record(0, b"nobody", b"forged"))
    assert "nobody'" not in "\n".join((await verified(settled)).lines())
    asked = await verified(settled, findings=Findings(with_ids=True))
    assert f"  {USERS.name} 3:0 'nobody'" in asked.lines()


async def test_a_row_of_emails_that_is_gone_is_missing_and_its_user_holds_nothing(
    settled: Simulation,
) -> None:
    log, index = a_row(settled, EMAILS)
    change(log, index, value=None)
    findings = await verified(settled)
    assert findings.counts == {Difference.MISSING_HOLDER: 1, Difference.NOT_HELD: 1}


async def test_a_row_of_emails_with_another_holder_is_different(settled: Simulation) -> None:
    log, index = a_row(settled, EMAILS)
    change(log, index, value=encode_holder({"id": "another", "attempt": token(0, 0)}))
    assert (await verified(settled)).counts == {
        Difference.DIFFERENT_HOLDER: 1,
        Difference.NOT_HELD: 1,
        Difference.HELD_BY_NOBODY: 1,
    }


async def test_a_row_of_emails_that_no_claim_makes_is_extra(settled: Simulation) -> None:
    row = encode_holder({"id": "another", "attempt": token(0, 0)})
    settled.log(EMAILS, 3).records.insert(0, Record(0, b"key", row))
    findings = await verified(settled)
    assert findings.counts == {Difference.EXTRA_HOLDER: 1, Difference.HELD_BY_NOBODY: 1}


async def test_users_and_emails_are_compared_even_where_every_beginning_is_gone(
    settled: Simulation,
) -> None:
    for topic in (REGISTRATIONS, CLAIMS, DECISIONS):
        for number in range(PARTITIONS):
            log = settled.log(topic, number)
            log.remove_below(log.end)
    log, index = a_row(settled, EMAILS)
    change(log, index, value=None)
    assert (await verified(settled)).counts == {Difference.NOT_HELD: 1}


async def test_where_something_is_in_flight_it_is_said_what_was_not_compared(
    settled: Simulation,
) -> None:
    settled.arrive(2, None, b"nonsense")
    log, index = a_row(settled, EMAILS)
    change(log, index, value=None)
    findings = await verified(settled)
    assert findings.counts[Difference.MISSING_HOLDER] == 1
    assert (
        "records are in flight: that users hold their addresses was checked in 7 of 8 partitions, "
        "and not that nobody else holds any"
    ) in findings.notes


async def test_a_row_of_a_user_who_came_later_is_certain_even_where_the_beginning_is_gone(
    settled: Simulation,
) -> None:
    for number in range(PARTITIONS):
        log = settled.log(REGISTRATIONS, number)
        log.remove_below(log.end)
    home = register(settled, "late", "late@example.com")
    settled.run()
    assert_status(await verified(settled), PARTIAL)
    log = settled.log(USERS, home)
    row = decode_row(log.records[log.newest(b"late")].value or b"")
    change(log, log.newest(b"late"), value=encode_row({**row, "name": "Another"}))
    assert (await verified(settled)).counts == {Difference.DIFFERENT_ROW: 1}


# -- full queues


TOO_MANY = b'"too-many-pending"'


def rejected_in(simulation: Simulation) -> list[tuple[Log, Record]]:
    """Return the outcomes that say that too many waited."""
    return [each for each in simulation.all(OUTCOMES) if TOO_MANY in (each[1].value or b"")]


def burst(simulation: Simulation, updates: int, *more: bytes | None) -> int:
    """Let a user register, change so often at once, and more come; return the partition."""
    home = register(simulation, "ada", "ada@example.com")
    for number in range(updates):
        update = {"type": "update", "id": "ada", "email": f"ada{number}@example.com"}
        simulation.arrive(home, None, orjson.dumps(update))
    for value in more:
        simulation.arrive(home, b"ada", value)
    apply_registrations(simulation, home)
    return home


RENAMED = orjson.dumps({"type": "update", "id": "ada", "name": "Another"})
#: What meets a full queue that has just filled.
FIRST_TOO_MANY = 1 + MAX_QUEUE


def with_places(monkeypatch: pytest.MonkeyPatch, places: Callable[[object], int]) -> None:
    """Let records be applied by another rule of how many may wait."""
    monkeypatch.setattr(decisions, "places_for", places)


async def test_what_is_rejected_because_too_many_wait_is_no_difference(
    registry: Simulation,
) -> None:
    home = burst(registry, MAX_QUEUE + 5, None, None, RENAMED)
    assert len(rejected_in(registry)) == 7
    findings = await verified(registry)
    assert_status(findings, CLEAN)
    assert "1 users wait for the verdict on their address" in findings.notes
    registry.run()
    findings = await verified(registry)
    assert_status(findings, CLEAN)
    assert any("1 erased" in note and "7 too-many-pending" in note for note in findings.notes)
    # And once more, after others were settled.
    register(registry, "ada", "ada@example.com")
    registry.arrive(home, None, RENAMED)
    registry.run()
    assert_status(await verified(registry), CLEAN)


async def test_the_rule_is_not_decided_anew_but_taken_as_told(registry: Simulation) -> None:
    """Who folds the sources knows all verdicts, so that for it nothing waits."""
    burst(registry, MAX_QUEUE + 5)
    registry.run()
    log, told = rejected_in(registry)[0]
    log.records.remove(told)
    findings = await verified(registry)
    assert findings.counts[Difference.MISSING_CLAIM] == 1
    assert findings.counts[Difference.KEPT_OUTCOME] == 1
    assert f"  {REGISTRATIONS.name} {log_of(registry)}:{FIRST_TOO_MANY}" in findings.lines()


def log_of(simulation: Simulation) -> int:
    """Return the partition of the user of a burst."""
    return partition_of(b"ada", PARTITIONS)


@pytest.mark.parametrize("is_settled", [False, True])
async def test_a_record_for_which_there_was_no_place_has_overtaken(
    registry: Simulation, is_settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        with_places(patch, lambda command: MAX_QUEUE + 2)
        home = burst(registry, MAX_QUEUE + 5)
    if is_settled:
        registry.run()
    findings = await verified(registry)
    assert findings.counts == {Difference.OVERTAKEN: 2}
    for offset in (FIRST_TOO_MANY, FIRST_TOO_MANY + 1):
        assert f"  {REGISTRATIONS.name} {home}:{offset}" in findings.lines()


async def test_of_erasures_one_has_a_place_more_and_the_next_overtakes(
    registry: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        with_places(patch, lambda command: 2 * MAX_QUEUE)
        home = burst(registry, MAX_QUEUE, None, None)
    findings = await verified(registry)
    assert findings.counts == {Difference.OVERTAKEN: 1}
    assert f"  {REGISTRATIONS.name} {home}:{FIRST_TOO_MANY + 1}" in findings.lines()


@pytest.mark.parametrize("is_settled", [False, True])
async def test_a_rejection_is_untrue_if_there_was_a_place(
    registry: Simulation, is_settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        with_places(patch, lambda command: MAX_QUEUE - 1)
        home = burst(registry, MAX_QUEUE + 1)
    if is_settled:
        registry.run()
    findings = await verified(registry)
    assert findings.counts == {Difference.UNTRUE_REJECTION: 2}
    for offset in (FIRST_TOO_MANY - 1, FIRST_TOO_MANY):
        assert f"  {REGISTRATIONS.name} {home}:{offset}" in findings.lines()


async def test_a_rejection_of_an_erasure_is_untrue_while_the_last_place_is_free(
    registry: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        with_places(patch, lambda command: MAX_QUEUE)
        home = burst(registry, MAX_QUEUE, RENAMED, None)
    registry.run()
    findings = await verified(registry)
    assert findings.counts == {Difference.UNTRUE_REJECTION: 1}
    assert f"  {REGISTRATIONS.name} {home}:{FIRST_TOO_MANY + 1}" in findings.lines()


@pytest.mark.parametrize("others", [0, 40])
async def test_a_rejection_is_untrue_if_none_of_the_id_waits(
    registry: Simulation, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    burst(registry, 0)
    registry.run()
    for _ in range(others):
        registry.arrive(log_of(registry), None, RENAMED)
    registry.run()
    offset = registry.arrive(log_of(registry), None, RENAMED)
    with monkeypatch.context() as patch:
        patch.setattr(
            Decisions, "ask", lambda self, row, key, asked: self.reject(key, asked) or row
        )
        registry.run()
    findings = await verified(registry)
    assert findings.counts == {Difference.UNTRUE_REJECTION: 1}
    assert f"  {REGISTRATIONS.name} {log_of(registry)}:{offset}" in findings.lines()


async def test_a_rejection_of_what_was_applied_is_a_difference(registry: Simulation) -> None:
    home = burst(registry, 0)
    registry.run()
    offset = registry.arrive(home, None, RENAMED)
    registry.run()
    log = registry.log(OUTCOMES, home)
    index = log.newest(b"ada")
    decided = Decided(offset, "ada", Outcome.TOO_MANY_PENDING)
    change(log, index, value=encode_outcome(token(home, offset), decided))
    assert (await verified(registry)).counts == {
        Difference.DIFFERENT_ROW: 1,
        Difference.KEPT_OUTCOME: 1,
        Difference.UNTRUE_REJECTION: 1,
    }


async def test_a_rejection_under_another_id_is_none(registry: Simulation) -> None:
    burst(registry, MAX_QUEUE + 1)
    registry.run()
    [(log, told)] = rejected_in(registry)
    change(log, log.records.index(told), key=b"eve")
    counts = (await verified(registry)).counts
    assert counts[Difference.EXTRA_OUTCOME] == counts[Difference.KEPT_OUTCOME] == 1


async def test_where_the_outcomes_are_gone_the_table_is_believed_and_it_is_said(
    registry: Simulation,
) -> None:
    burst(registry, MAX_QUEUE + 5)
    registry.run()
    log, told = rejected_in(registry)[-2]
    log.remove_below(told.offset + 1)
    findings = await verified(registry)
    assert_status(findings, PARTIAL)
    assert findings.unchecked == [
        f"{OUTCOMES.name}: its beginning is gone, perhaps with the outcomes of 4 records",
        f"{OUTCOMES.name}: its beginning is gone; that 4 records were rejected as too-many-pending "
        "is what users says",
    ]


async def test_a_rejection_is_not_judged_by_records_that_are_gone(registry: Simulation) -> None:
    home = burst(registry, MAX_QUEUE + 5)
    registry.log(REGISTRATIONS, home).remove_below(10)
    assert_status(await verified(registry), PARTIAL)
    registry.run()
    assert_status(await verified(registry), PARTIAL)


# -- claims


def a_claim(
    simulation: Simulation, kind: str = "claim", attempt: str | None = None
) -> tuple[int, Record]:
    """Return a claim that was never made, and its partition."""
    key = email_key("nobody@example.com")
    written = encode_claim(cast(Any, kind), "u1", attempt or an_attempt(simulation))
    return partition_of(key, PARTITIONS), Record(0, key, written)


def an_attempt(simulation: Simulation, user_id: str = "u1") -> str:
    """Return the position of the first record in the partition of a user."""
    home = partition_of(user_id.encode(), PARTITIONS)
    return token(home, simulation.log(REGISTRATIONS, home).records[0].offset)


@pytest.mark.parametrize("is_settled", [False, True])
async def test_a_forged_claim_is_extra_before_and_after_it_is_settled(
    settled: Simulation, is_settled: bool
) -> None:
    number, claim = a_claim(settled)
    offset = settled.log(CLAIMS, number).append(claim)
    settled.run(None if is_settled else 0)
    findings = await verified(settled)
    assert findings.counts == {Difference.EXTRA_CLAIM: 1}
    assert f"  {CLAIMS.name} {number}:{offset}" in findings.lines()


@pytest.mark.parametrize("attempt", ["nonsense", token(77, 1), "é"])
@pytest.mark.parametrize("is_settled", [False, True])
async def test_a_claim_whose_attempt_is_no_record_is_extra(
    settled: Simulation, attempt: str, is_settled: bool
) -> None:
    number, claim = a_claim(settled, attempt=attempt)
    settled.log(CLAIMS, number).append(claim)
    settled.run(None if is_settled else 0)
    assert (await verified(settled)).counts == {Difference.EXTRA_CLAIM: 1}


async def test_a_claim_of_a_record_that_is_not_there_yet_is_extra_once_everything_rests(
    settled: Simulation,
) -> None:
    home = partition_of(b"u1", PARTITIONS)
    number, claim = a_claim(settled, attempt=token(home, 10_000))
    settled.log(CLAIMS, number).append(claim)
    assert_status(await verified(settled), CLEAN)
    settled.run()
    assert (await verified(settled)).counts == {Difference.EXTRA_CLAIM: 1}


async def test_a_claim_that_is_gone_is_missing_and_its_verdict_extra(settled: Simulation) -> None:
    taken = next(
        record for _, record in settled.all(DECISIONS) if b'"taken"' in (record.value or b"")
    )
    at = Position.parse(orjson.loads(taken.value or b"")["at"])
    log = settled.log(CLAIMS, at.partition)
    log.records = [record for record in log.records if record.offset != at.offset]
    findings = await verified(settled)
    assert findings.counts == {Difference.MISSING_CLAIM: 1, Difference.EXTRA_VERDICT: 1}


async def test_a_claim_in_a_wrong_partition_is_no_claim(registry: Simulation) -> None:
    home = register(registry, "ada", "ada@example.com")
    apply_registrations(registry, home)
    [(log, claim)] = registry.all(CLAIMS)
    log.records.clear()
    wrong = (partition_of(claim.key or b"", PARTITIONS) + 1) % PARTITIONS
    registry.log(CLAIMS, wrong).append(claim)
    findings = await verified(registry)
    assert findings.counts == {Difference.MISSING_CLAIM: 1, Difference.EXTRA_CLAIM: 1}


async def test_a_claim_may_follow_a_record_that_waits_and_is_no_difference(
    registry: Simulation,
) -> None:
    """Who looks at the claims later than at the table may find it."""
    home = register(registry, "ada", "ada@example.com")
    for name in ("b", "c"):
        update = {"type": "update", "id": "ada", "email": f"{name}@example.com"}
        registry.arrive(home, None, orjson.dumps(update))
    apply_registrations(registry, home)
    key = email_key("b@example.com")
    claim = Record(0, key, encode_claim("claim", "ada", token(home, 1)))
    registry.log(CLAIMS, partition_of(key, PARTITIONS)).append(claim)
    assert_status(await verified(registry), CLEAN)


async def test_a_release_that_is_gone_is_missing(registry: Simulation) -> None:
    home = register(registry, "ada", "ada@example.com")
    registry.run()
    registry.arrive(home, b"ada", None)
    apply_rest(registry, home)
    [log] = [log for log, record in registry.all(CLAIMS) if b"release" in (record.value or b"")]
    log.records.pop()
    findings = await verified(registry)
    assert findings.counts[Difference.MISSING_RELEASE] == 1
    assert f"  {REGISTRATIONS.name} {home}:1" in findings.lines()
    assert set(findings.counts) == {Difference.MISSING_RELEASE, Difference.HELD_BY_NOBODY}


def apply_rest(simulation: Simulation, home: int) -> None:
    """Apply what is new in a partition of ``user-registrations``, and nothing that follows."""
    marker = simulation.markers["users", home]
    log = simulation.log(REGISTRATIONS, home)
    records = [r for r in log.records if r.offset >= marker.next[REGISTRATIONS.name]]
    changes = Changes()
    DECIDING.decide_registrations(home, records, changes)
    simulation.commit("users", home, changes, marker.after(REGISTRATIONS.name, log.end))


async def test_a_forged_release_is_extra_once_everything_rests(settled: Simulation) -> None:
    number, release = a_claim(settled, "release")
    settled.log(CLAIMS, number).append(release)
    assert_status(await verified(settled), CLEAN)
    settled.run()
    assert (await verified(settled)).counts == {Difference.EXTRA_RELEASE: 1}


async def test_a_forged_release_of_who_holds_the_address_takes_it_away(
    registry: Simulation,
) -> None:
    home = register(registry, "ada", "ada@example.com")
    registry.run()
    key = email_key("ada@example.com")
    release = Record(0, key, encode_claim("release", "ada", token(home, 0)))
    registry.log(CLAIMS, partition_of(key, PARTITIONS)).append(release)
    registry.run()
    findings = await verified(registry)
    assert findings.counts == {Difference.EXTRA_RELEASE: 1, Difference.NOT_HELD: 1}


# -- verdicts


async def test_a_verdict_that_is_gone_is_missing(registry: Simulation) -> None:
    register(registry, "ada", "ada@example.com")
    registry.run(2)
    [(log, _)] = registry.all(DECISIONS)
    log.records.clear()
    findings = await verified(registry)
    [(_, claim)] = registry.all(CLAIMS)
    assert findings.counts == {Difference.MISSING_VERDICT: 1}
    number = partition_of(claim.key or b"", PARTITIONS)
    assert f"  {CLAIMS.name} {number}:{claim.offset}" in findings.lines()


async def test_a_verdict_that_is_gone_after_it_was_applied_is_missing_among_others(
    settled: Simulation,
) -> None:
    log = next(log for log, _ in settled.all(DECISIONS))
    log.records.pop(0)
    assert (await verified(settled)).counts[Difference.MISSING_VERDICT] == 1


@pytest.mark.parametrize("member", ["email_key", "attempt", "verdict"])
async def test_a_verdict_of_other_content_is_missing_and_extra(
    registry: Simulation, member: str
) -> None:
    register(registry, "ada", "ada@example.com")
    registry.run(2)
    [(log, verdict)] = registry.all(DECISIONS)
    others = {"email_key": "another", "attempt": token(0, 99), "verdict": "taken"}
    told = {**orjson.loads(verdict.value or b""), member: others[member]}
    change(log, 0, value=orjson.dumps(told))
    findings = await verified(registry)
    assert findings.counts == {Difference.MISSING_VERDICT: 1, Difference.EXTRA_VERDICT: 1}


async def test_a_verdict_under_another_key_is_missing_and_extra(registry: Simulation) -> None:
    register(registry, "ada", "ada@example.com")
    registry.run(2)
    [(log, _)] = registry.all(DECISIONS)
    change(log, 0, key=b"eve")
    findings = await verified(registry)
    assert findings.counts == {Difference.MISSING_VERDICT: 1, Difference.EXTRA_VERDICT: 1}


@pytest.mark.parametrize("is_applied", [False, True])
@pytest.mark.parametrize("word", ["granted", "taken"])
async def test_a_forged_verdict_is_extra(settled: Simulation, word: str, is_applied: bool) -> None:
    claims, claim = settled.all(CLAIMS)[0]
    number = next(n for n in range(PARTITIONS) if settled.log(CLAIMS, n) is claims)
    home = partition_of(b"u1", PARTITIONS)
    key = email_key("nobody@example.com")
    at = token(number, claim.offset)
    verdict = encode_verdict(key, an_attempt(settled), word, at)
    settled.log(DECISIONS, home).append(Record(0, b"u1", verdict))
    settled.run(None if is_applied else 0)
    assert (await verified(settled)).counts == {Difference.EXTRA_VERDICT: 1}


async def test_a_verdict_twice_is_extra(registry: Simulation) -> None:
    register(registry, "ada", "ada@example.com")
    registry.run()
    [(log, verdict)] = registry.all(DECISIONS)
    log.append(verdict)
    assert (await verified(registry)).counts == {Difference.EXTRA_VERDICT: 1}


# -- outcomes


def a_page(simulation: Simulation) -> tuple[int, int, bytearray]:
    """Return a partition of ``users`` with outcomes, where its first page is, and the page."""
    for number in range(PARTITIONS):
        log = simulation.log(USERS, number)
        key = OUTCOMES_PREFIX + bytes(8)
        if any(record.key == key for record in log.records):
            index = log.newest(key)
            return number, index, bytearray(log.records[index].value or b"")
    raise AssertionError("no page")


async def test_a_byte_of_a_page_that_is_changed_is_a_difference(settled: Simulation) -> None:
    number, index, page = a_page(settled)
    offset = next(offset for offset, outcome in enumerate(page) if outcome)
    page[offset] = Outcome.PENDING
    change(settled.log(USERS, number), index, value=bytes(page))
    findings = await verified(settled)
    assert findings.counts == {Difference.KEPT_OUTCOME: 1}
    assert f"  {REGISTRATIONS.name} {number}:{offset}" in findings.lines()


async def test_an_outcome_where_no_record_is_is_a_difference(settled: Simulation) -> None:
    number, index, page = a_page(settled)
    page[-1] = Outcome.REGISTERED
    change(settled.log(USERS, number), index, value=bytes(page))
    assert (await verified(settled)).counts == {Difference.KEPT_OUTCOME: 1}


async def test_a_page_that_is_gone_lacks_all_its_outcomes(settled: Simulation) -> None:
    number, index, page = a_page(settled)
    change(settled.log(USERS, number), index, value=None)
    count = sum(outcome > 0 for outcome in page)
    assert (await verified(settled)).counts == {Difference.KEPT_OUTCOME: count}


async def test_a_page_of_another_length_is_a_difference(settled: Simulation) -> None:
    number, index, page = a_page(settled)
    change(settled.log(USERS, number), index, value=bytes(page[:-1]))
    assert (await verified(settled)).counts == {Difference.KEPT_OUTCOME: 1}


# -- counts


def a_count(simulation: Simulation) -> tuple[Log, int, Count]:
    """Return a partition of ``users`` that has some, where its count is, and the count."""
    for log in (simulation.log(USERS, number) for number in range(PARTITIONS)):
        if any(record.key == COUNT_KEY for record in log.records):
            index = log.newest(COUNT_KEY)
            count = Count.decode(log.records[index].value or b"")
            if count.users:
                return log, index, count
    raise AssertionError("no count")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda count: Count(count.users + 1, count.days).encode(),
        lambda count: Count(count.users, {**count.days, "2026-01-31": 1}).encode(),
        lambda count: Count(count.users, dict.fromkeys(count.days, 0)).encode(),
        lambda _: b"5",
        lambda _: b"{}}",
        lambda _: b'{"users":"many","days":[],"since":3}',
    ],
)
async def test_a_count_of_other_users_than_there_are_is_a_difference(
    settled: Simulation, wrong: Callable[[Count], bytes]
) -> None:
    log, index, count = a_count(settled)
    change(log, index, value=wrong(count))
    findings = await verified(settled)
    assert findings.counts == {Difference.COUNT: 1}
    assert findings.status == DIFFERENCES


async def test_days_before_those_that_are_known_are_not_compared(settled: Simulation) -> None:
    log, index, count = a_count(settled)
    change(log, index, value=Count(count.users, {}, since="9999-12-31").encode())
    assert (await verified(settled)).counts == {}


async def test_that_nobody_has_counted_yet_is_no_difference(settled: Simulation) -> None:
    log, index, _ = a_count(settled)
    change(log, index, value=None)
    assert (await verified(settled)).counts == {}


def an_outcome(simulation: Simulation, is_move: bool = False) -> tuple[Log, Record]:
    """Return a record of ``registration-outcomes``, and its partition."""
    found = simulation.all(OUTCOMES)
    return next((log, r) for log, r in found if (b"moved_to" in (r.value or b"")) == is_move)


@pytest.mark.parametrize("is_move", [False, True])
async def test_an_outcome_that_is_not_told_is_missing(settled: Simulation, is_move: bool) -> None:
    log, outcome = an_outcome(settled, is_move)
    log.records.remove(outcome)
    assert (await verified(settled)).counts == {Difference.MISSING_OUTCOME: 1}


@pytest.mark.parametrize("is_move", [False, True])
async def test_an_outcome_that_is_told_twice_is_extra(settled: Simulation, is_move: bool) -> None:
    log, outcome = an_outcome(settled, is_move)
    log.append(outcome)
    assert (await verified(settled)).counts == {Difference.EXTRA_OUTCOME: 1}


@pytest.mark.parametrize("is_move", [False, True])
async def test_an_outcome_under_another_id_is_missing_and_extra(
    settled: Simulation, is_move: bool
) -> None:
    log, outcome = an_outcome(settled, is_move)
    change(log, log.records.index(outcome), key=b"another")
    findings = await verified(settled)
    assert findings.counts == {Difference.MISSING_OUTCOME: 1, Difference.EXTRA_OUTCOME: 1}


@pytest.mark.parametrize("value", [None, b"", b"[]", b"{}", b'{"position":7,"outcome":"moved"}'])
async def test_what_is_no_outcome_is_extra(settled: Simulation, value: bytes | None) -> None:
    settled.log(OUTCOMES, 2).append(Record(0, b"key", value))
    assert (await verified(settled)).counts == {Difference.EXTRA_OUTCOME: 1}


async def test_an_outcome_of_a_record_that_is_not_applied_may_have_come_since(
    registry: Simulation,
) -> None:
    home = register(registry, "ada", "ada@example.com")
    value = encode_outcome(token(home, 0), Decided(0, "ada", Outcome.REGISTERED))
    registry.log(OUTCOMES, home).append(Record(0, b"ada", value))
    assert_status(await verified(registry), CLEAN)


async def test_where_outcomes_are_gone_it_is_partial(settled: Simulation) -> None:
    log, outcome = an_outcome(settled)
    count = sum(record.offset <= outcome.offset for record in log.records)
    log.remove_below(outcome.offset + 1)
    findings = await verified(settled)
    assert_status(findings, PARTIAL)
    assert findings.unchecked == [
        f"{OUTCOMES.name}: its beginning is gone, perhaps with the outcomes of {count} records"
    ]


def test_an_outcome_of_another_partitions_record_names_none() -> None:
    fold = OutcomesFold(2, PARTITIONS, Span(REGISTRATIONS.name, 2, 0, 1))
    decided = Decided(0, "ada", Outcome.REGISTERED)
    fold.add([Record(0, b"ada", encode_outcome(token(3, 0), decided))])
    assert (len(fold.found), dict(fold.moved)) == (1, {})


# -- dead letters


async def test_a_letter_that_is_gone_is_missing(settled: Simulation) -> None:
    log, letter = settled.all(LETTERS)[0]
    log.records.remove(letter)
    assert (await verified(settled)).counts == {Difference.MISSING_LETTER: 1}


async def test_letters_of_one_record_are_one_and_a_mark_is_a_letter(settled: Simulation) -> None:
    log, letter = next((log, r) for log, r in settled.all(LETTERS) if not is_mark(r))
    ours = [header for header in letter.headers if header[0].startswith("source-")]
    log.append(replace(letter, value=b"", headers=[*ours, ("mark", b"erased")]))
    assert_status(await verified(settled), CLEAN)
    log.records.remove(letter)
    assert_status(await verified(settled), CLEAN)


def is_mark(record: Record) -> bool:
    """Return whether a record of the dead-letter topic is what a letter was replaced by."""
    return any(name == "mark" for name, _ in record.headers)


async def test_a_letter_of_a_record_that_needs_none_is_extra(settled: Simulation) -> None:
    log, letter = settled.all(LETTERS)[0]
    headers = dict(letter.headers)
    number = int(headers["source-partition"])
    fine = next(
        record.offset
        for record in settled.log(REGISTRATIONS, number).records
        if (record.value or b"").startswith(b'{"id"') and b"7" not in (record.value or b"")
    )
    position = token(number, fine).encode()
    named_headers = [*{**headers, "source-position": position}.items()]
    key = REGISTRATIONS.name.encode() + b"/" + position
    log.append(replace(letter, key=key, headers=named_headers))
    assert (await verified(settled)).counts == {Difference.EXTRA_LETTER: 1}


@pytest.mark.parametrize("topic", [CLAIMS, DECISIONS], ids=["claims", "decisions"])
async def test_claims_and_verdicts_that_cannot_be_read_need_letters(
    settled: Simulation, topic: Any
) -> None:
    settled.log(topic, 1).append(Record(0, b"key", b"nonsense"))
    assert_status(await verified(settled), CLEAN)
    settled.run()
    assert_status(await verified(settled), CLEAN)
    log, letter = settled.all(LETTERS)[-1]
    log, letter = next(
        (log, r)
        for log, r in settled.all(LETTERS)
        if (r.key or b"").startswith(topic.name.encode())
    )
    log.records.remove(letter)
    assert (await verified(settled)).counts == {Difference.MISSING_LETTER: 1}


@pytest.mark.parametrize(
    "key", [b"user-registrations", None, b"another/" + token(1, 1).encode(), b"\xff"]
)
async def test_what_is_no_letter_of_ours_is_only_counted(
    settled: Simulation, key: bytes | None
) -> None:
    headers = [
        ("source-topic", REGISTRATIONS.name.encode()),
        ("source-position", token(1, 1).encode()),
    ]
    settled.log(LETTERS, 1).append(Record(0, key, b"", headers))
    findings = await verified(settled)
    assert_status(findings, CLEAN)
    assert "1 records there are no dead letters of ours" in findings.notes


async def test_where_letters_are_gone_it_is_partial(settled: Simulation) -> None:
    log, letter = settled.all(LETTERS)[0]
    log.remove_below(letter.offset + 1)
    findings = await verified(settled)
    assert_status(findings, PARTIAL)
    assert "perhaps with the letters of 1 records" in findings.unchecked[0]


# -- what the group says


@pytest.mark.parametrize("table", ["users", "emails"])
async def test_a_changelog_that_lost_something_is_told_by_the_group(
    settled: Simulation, table: str
) -> None:
    topics_of = {"users": [REGISTRATIONS, DECISIONS], "emails": [CLAIMS]}[table]
    changelog = USERS if table == "users" else EMAILS
    applied = {
        TP(topic.name, number): settled.markers[table, number].next[topic.name]
        for topic in topics_of
        for number in range(PARTITIONS)
    }
    assert_status(await verified(settled, applied=applied), CLEAN)
    number = max(applied, key=lambda tp: applied[tp]).partition
    log = settled.log(changelog, number)
    log.records.clear()
    log.end = 0
    findings = await verified(settled, applied=applied)
    behind = sum(applied[TP(topic.name, number)] > 0 for topic in topics_of)
    assert findings.counts[Difference.MARKER] == behind > 0
    assert any("which was applied up to" in line for line in findings.lines())


# -- what operators have skipped


def skip(simulation: Simulation, home: int) -> int:
    """Skip the record of a partition that was written last; return its offset."""
    log, marker = simulation.log(REGISTRATIONS, home), simulation.markers["users", home]
    record = log.records[-1]
    marker = marker.after(REGISTRATIONS.name, record.offset + 1)
    skipped = Skip(TP(REGISTRATIONS.name, home), record, marker, "a bug")
    changes = Changes(rows=dict(skipped.rows(simulation.tables["users"][home])))
    changes.outgoing[LETTERS.name, home] += skipped.letters(LETTERS.name)
    simulation.commit("users", home, changes, marker)
    return record.offset


async def test_a_record_that_was_skipped_is_a_dead_letter_and_told(settled: Simulation) -> None:
    home = register(settled, "ada", "ada@example.com")
    at = skip(settled, home)
    told = f"{REGISTRATIONS.name}, partition {home}: record {at} was skipped (a bug)"
    findings = await verified(settled)
    assert_status(findings, CLEAN)
    assert told in findings.notes
    # The same may come again, and its letter be erased: the summary stays.
    register(settled, "ada", "ada@example.com")
    settled.run()
    settled.arrive(home, b"ada", None)
    settled.run()
    assert any(is_mark(record) for record in settled.log(LETTERS, home).records)
    assert_status(await verified(settled), CLEAN)


async def test_a_record_is_not_skipped_because_somebody_says_so(settled: Simulation) -> None:
    home = register(settled, "ada", "ada@example.com")
    at = skip(settled, home)
    log = settled.log(LETTERS, home)
    log.records.pop()
    findings = await verified(settled)
    assert findings.counts[Difference.EXTRA_LETTER] == 1
    assert findings.counts[Difference.MISSING_ROW] == 1
    # Where the beginning of the letters is gone, it is what the table says.
    log.remove_below(log.end)
    findings = await verified(settled)
    assert_status(findings, PARTIAL)
    assert any("1 records were skipped is what users says" in each for each in findings.unchecked)
    summary = Summary(
        topic=REGISTRATIONS.name, partition=home, first=at - 2, last=at - 2, why="a lie"
    )
    _, key, value, headers = summary.to_write(SKIPPED, "a lie")
    log.append(Record(0, key, value, headers))
    assert_status(await verified(settled), DIFFERENCES)


# -- moves


def moved(simulation: Simulation) -> tuple[int, int, Log, int]:
    """Move a record; return where it was, and where its copy is, which is not applied yet."""
    home = partition_of(b"ada", PARTITIONS)
    wrong = (home + 1) % PARTITIONS
    command = {"id": "ada", "name": "N", "email": "ada@example.com"}
    offset = simulation.arrive(wrong, None, orjson.dumps(command))
    apply_rest(simulation, wrong)
    log = simulation.log(REGISTRATIONS, home)
    return wrong, offset, log, len(log.records) - 1


async def test_a_record_that_was_moved_once_is_right(settled: Simulation) -> None:
    moved(settled)
    assert_status(await verified(settled), CLEAN)


async def test_a_copy_that_is_gone_is_missing(settled: Simulation) -> None:
    wrong, offset, log, index = moved(settled)
    log.records.pop(index)
    findings = await verified(settled)
    assert findings.counts == {Difference.MISSING_MOVE: 1}
    assert f"  {REGISTRATIONS.name} {wrong}:{offset}" in findings.lines()


async def test_a_record_that_was_moved_twice_is_a_difference(settled: Simulation) -> None:
    """It is told of twice, too: that is how it differs from what any producer can write."""
    wrong, offset, log, index = moved(settled)
    log.append(log.records[index])
    findings = await verified(settled)
    assert_status(findings, CLEAN)
    assert "1 records say that they were moved, and were not" in findings.notes
    home = partition_of(b"ada", PARTITIONS)
    decided = Decided(offset, "ada", Outcome.MOVED)
    again = encode_outcome(token(wrong, offset), decided, token(home, log.records[-1].offset))
    settled.log(OUTCOMES, home).append(Record(0, b"ada", again, []))
    assert (await verified(settled)).counts == {Difference.DUPLICATE_MOVE: 1}


async def test_another_producers_word_that_a_record_was_moved_is_no_difference(
    registry: Simulation,
) -> None:
    home = register(registry, "ada", "ada@example.com")
    registry.run()
    headers = [(MOVED_FROM_HEADER, token(home, 0).encode())]
    registry.log(REGISTRATIONS, home).append(Record(0, b"ada", None, headers))
    findings = await verified(registry)
    assert_status(findings, CLEAN)
    assert "1 records say that they were moved, and were not" in findings.notes


async def test_a_move_that_is_kept_otherwise_is_a_difference(settled: Simulation) -> None:
    wrong, offset, _, _ = moved(settled)
    log = settled.log(USERS, wrong)
    index = log.newest(MOVES_PREFIX + offset.to_bytes(8, "big"))
    change(log, index, value=token(0, 0).encode())
    assert (await verified(settled)).counts == {Difference.KEPT_MOVE: 1}


async def test_a_move_that_is_told_otherwise_is_missing_and_extra(settled: Simulation) -> None:
    wrong, offset, _, _ = moved(settled)
    home = partition_of(b"ada", PARTITIONS)
    log = settled.log(OUTCOMES, home)
    decided = Decided(offset, "ada", Outcome.MOVED)
    value = encode_outcome(token(wrong, offset), decided, token(0, 0))
    change(log, len(log.records) - 1, value=value)
    findings = await verified(settled)
    assert findings.counts == {Difference.MISSING_OUTCOME: 1, Difference.EXTRA_OUTCOME: 1}


@pytest.mark.parametrize("origin", [b"", b"nonsense", b"\xff", None, token(77, 1).encode()])
async def test_another_producers_header_is_only_counted(
    settled: Simulation, origin: bytes | None
) -> None:
    headers = [(MOVED_FROM_HEADER, cast(bytes, origin))]
    settled.log(REGISTRATIONS, 1).append(Record(0, None, b"nonsense", headers))
    settled.run()
    findings = await verified(settled)
    assert_status(findings, CLEAN)
    assert "1 records say that they were moved, and were not" in findings.notes


# -- markers


def mark(simulation: Simulation, value: bytes | None, topic: Any = USERS, number: int = 1) -> None:
    """Write a marker to a changelog."""
    simulation.log(topic, number).append(Record(0, MARKER_KEY, value))


async def test_a_marker_beyond_the_end_is_a_difference(settled: Simulation) -> None:
    marker = settled.markers["users", 1].after(REGISTRATIONS.name, 10_000)
    mark(settled, marker.encode())
    findings = await verified(settled)
    assert findings.counts == {Difference.MARKER: 1}
    end = settled.log(REGISTRATIONS, 1).end
    assert says(findings, f"which ends at {end}: it has lost its end")


@pytest.mark.parametrize(
    ("topic", "table", "of"),
    [(REGISTRATIONS, USERS, "users"), (DECISIONS, USERS, "users"), (CLAIMS, EMAILS, "emails")],
    ids=["registrations", "decisions", "claims"],
)
async def test_a_source_that_was_made_anew_or_lost_its_end_is_named_though_it_has_grown_since(
    settled: Simulation, topic: Any, table: Any, of: str
) -> None:
    number = next(n for n in range(PARTITIONS) if settled.markers[of, n].next.get(topic.name))
    marker = settled.markers[of, number]
    known = {topic.name: short_id(FIRST_ID)}
    mark(settled, marker.under(marker.rules, known).encode(), table, number)
    assert_status(await verified(settled), CLEAN)
    place = f"{table.name} {number} is at {marker.next[topic.name]} of {topic.name}, which "

    findings = await verified(settled, ids={topic.name: bytes(range(16))})
    assert findings.counts == {Difference.MARKER: 1}
    assert says(findings, f"{place}was deleted and recreated since")

    findings = await verified(settled, lost={TP(topic.name, number): 0})
    assert findings.counts == {Difference.MARKER: 1}
    assert says(findings, f"{place}has lost its end from 0 on, and has grown")


def says(findings: Findings, what: str) -> bool:
    """Return whether a line of a report ends so."""
    return any(line.endswith(what) for line in findings.lines())


@pytest.mark.parametrize("value", [b"{}", None])
@pytest.mark.parametrize(("topic", "number"), [(USERS, 1), (EMAILS, 1)], ids=["users", "emails"])
async def test_a_marker_that_cannot_be_read_is_a_difference_and_everything_counts_as_applied(
    settled: Simulation, value: bytes | None, topic: Any, number: int
) -> None:
    mark(settled, value, topic, number)
    assert (await verified(settled)).counts == {Difference.MARKER: 1}


async def test_a_changelog_with_rows_and_no_marker_is_a_difference(settled: Simulation) -> None:
    log = settled.log(EMAILS, next(n for n in range(PARTITIONS) if settled.log(EMAILS, n).end))
    log.records = [record for record in log.records if record.key != MARKER_KEY]
    assert (await verified(settled)).counts == {Difference.MARKER: 1}


async def test_records_that_were_removed_before_they_were_applied_make_it_partial(
    settled: Simulation,
) -> None:
    log = settled.log(REGISTRATIONS, 1)
    before = log.end
    settled.arrive(1, None, b"nonsense")
    settled.arrive(1, None, b"nonsense")
    log.remove_below(log.end - 1)
    findings = await verified(settled)
    assert_status(findings, PARTIAL)
    applied = settled.markers["users", 1].next[REGISTRATIONS.name]
    assert applied <= before
    assert (
        f"{REGISTRATIONS.name} 1: applied up to {applied}, the log begins at {log.start}; what "
        "stood between was removed before it was applied"
    ) in findings.unchecked


@pytest.mark.parametrize("topic", [USERS, EMAILS], ids=["users", "emails"])
async def test_rows_that_were_decided_under_another_secret_cannot_be_verified(
    settled: Simulation, topic: Any
) -> None:
    mark(settled, Marker.first("2:another").encode(), topic)
    with pytest.raises(SettingsError, match=f"{topic.name} was written under another EMAIL_SECRET"):
        await verified(settled)


async def test_a_marker_is_found_far_before_the_end(settled: Simulation) -> None:
    log = settled.log(USERS, 1)
    marker = log.newest(MARKER_KEY)
    assert log.records[marker].offset < log.end
    log.end += 5_000  # as aborted transactions leave it
    assert_status(await verified(settled), CLEAN)


# -- multisets


def multiset(*said: str) -> Multiset:
    """Return a multiset of texts, each at the offset of its place in the row."""
    made = Multiset()
    for offset, text in enumerate(said):
        made.add(text, 3, offset, offset + 10)
    return made


def test_what_is_too_many_is_told_with_its_place() -> None:
    one, other = multiset("a", "b", "a", "c", "a"), multiset("c", "a")
    left = [Entry(3, 1, 11), Entry(3, 2, 12), Entry(3, 4, 14)]
    assert list(one.without(other)) == left
    assert list(other.without(one)) == []
    assert list(Multiset().without(one)) == []
    assert list(one.without(Multiset())) == list(one.entries())


def test_multisets_compare_as_counters_do() -> None:
    random = Random(7)
    for _ in range(50):
        one, other = ([random.choice("abcdef") for _ in range(random.randrange(30))] for _ in "xy")
        left = len(list(multiset(*one).without(multiset(*other))))
        assert left == sum(max(one.count(letter) - other.count(letter), 0) for letter in "abcdef")


def test_a_multiset_takes_24_bytes_for_each() -> None:
    made = multiset(*map(str, range(1_000)))
    arrays = (made._hashes, made._places, made._about)
    assert sum(np.asarray(each).nbytes for each in arrays) == 24_000


# -- the report


def test_at_most_the_limit_is_listed_and_all_is_counted() -> None:
    findings = Findings(limit=2)
    for number in range(5):
        findings.differs(Difference.MISSING_ROW, f"t 0:{number}")
    assert list(findings.lines()) == [
        f"{Difference.MISSING_ROW}: 5",
        "  t 0:0",
        "  t 0:1",
        "  ... and 3 more",
        "result: 5 differences",
    ]


def test_a_difference_outweighs_what_could_not_be_checked() -> None:
    findings = Findings(unchecked=["the beginning is gone"])
    assert findings.status == PARTIAL
    assert next(findings.lines()) == "partial: the beginning is gone"
    findings.differs(Difference.EXTRA_ROW, "t 0:0")
    assert findings.status == DIFFERENCES


def test_an_id_cannot_disturb_the_terminal() -> None:
    findings = Findings(with_ids=True)
    findings.differs(Difference.EXTRA_ROW, "t 0:0", encode_key("a\x1b[2J") + b"\xff")
    assert "  t 0:0 'a\\x1b[2J\\\\xff'" in findings.lines()


def test_what_nobody_has_expected_ends_it_with_one_line_and_the_status_of_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> None:
        raise KeyError("ada@example.com")

    monkeypatch.setattr("app.cli.verify.verify_registry", fail)
    ended = CliRunner().invoke(main, ["verify"])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("not done: unexpected KeyError in test_verify.py, ")
    assert ended.stderr.count("\n") == 1


# -- stores


def store_compared(
    changelog: Sequence[Record], offset: int | None, rows: dict[bytes, bytes]
) -> StoreComparison:
    at = ChangelogAt(offset)
    at.add(changelog)
    store = Store(Path("users-0"), "users", 0)
    comparison = StoreComparison(store, at, USERS.name, Findings())
    for key, row in rows.items():
        comparison.add(key, row)
    comparison.finish()
    return comparison


def test_a_store_like_its_changelog_is_right() -> None:
    log = [Record(0, b"a", b"1"), Record(1, b"\xffrecent", b"r"), Record(2, MARKER_KEY, b"m")]
    rows = {b"a": b"1", MARKER_KEY: b"m", b"\xffoffset": b"2", b"\xffrecent": b"r"}
    comparison = store_compared(log, 2, rows)
    assert (comparison.findings.status, comparison.rows) == (CLEAN, 1)


def test_bookkeeping_of_a_store_is_compared_but_for_its_offset() -> None:
    log = [Record(0, b"\xffrecent", b"r"), Record(1, MARKER_KEY, b"m")]
    rows = {b"\xffrecent": b"older", MARKER_KEY: b"m", b"\xffoffset": b"1"}
    findings = store_compared(log, 1, rows).findings
    assert findings.counts == {Difference.STORE_DIFFERENT_ROW: 1}


def test_a_store_that_is_behind_is_compared_as_of_its_offset() -> None:
    log = [Record(0, b"a", b"1"), Record(1, b"a", b"2"), Record(2, b"b", b"3")]
    assert store_compared(log, 0, {b"a": b"1"}).findings.status == CLEAN
    assert store_compared(log, 0, {b"a": b"2"}).findings.counts == {
        Difference.STORE_DIFFERENT_ROW: 1
    }


def test_differences_are_told() -> None:
    log = [Record(0, b"a", b"1"), Record(1, b"b", b"2"), Record(2, MARKER_KEY, b"m")]
    findings = store_compared(log, 2, {b"b": b"x", b"c": b"3", MARKER_KEY: b"n"}).findings
    assert findings.counts == {
        Difference.STORE_MISSING_ROW: 1,
        Difference.STORE_DIFFERENT_ROW: 2,
        Difference.STORE_EXTRA_ROW: 1,
    }


def test_a_row_whose_record_compaction_removed_is_not_checked() -> None:
    comparison = store_compared([Record(7, b"a", b"2")], 3, {b"a": b"1"})
    assert (comparison.findings.status, comparison.unchecked) == (CLEAN, 1)


def test_a_deleted_row_must_be_gone() -> None:
    log = [Record(0, b"a", b"1"), Record(1, b"a", None)]
    assert store_compared(log, 1, {}).findings.status == CLEAN
    assert store_compared(log, 1, {b"a": b"1"}).findings.status == DIFFERENCES


def test_an_empty_store_is_behind_everything() -> None:
    comparison = store_compared([Record(0, b"a", b"1")], None, {})
    assert comparison.findings.status == CLEAN
    assert not comparison.changelog.is_last


# -- addresses that version 0.8 has claimed under another key

ADDRESS = "ada@xn--bcher-kva.example"


def readdress(simulation: Simulation, user_id: str, email: str | None) -> None:
    """Let a user have another address, or (None) be erased."""
    update = {"type": "update", "id": user_id, "email": email}
    value = None if email is None else orjson.dumps(update)
    simulation.arrive(partition_of(encode_key(user_id), PARTITIONS), user_id.encode(), value)


@pytest.fixture
def upgraded(registry: Simulation, monkeypatch: pytest.MonkeyPatch) -> Simulation:
    """Return a registry in which 0.8 has claimed addresses, and let go of one of them."""
    now, key_of_0_8 = EmailKeys.key, EmailKeys.key_of_0_8

    def key(keys: EmailKeys, email: str) -> bytes:
        return key_of_0_8(keys, email) or now(keys, email)

    with monkeypatch.context() as patch:
        patch.setattr(EmailKeys, "key", key)
        patch.setattr(EmailKeys, "key_of_0_8", lambda *_: None)
        register(registry, "ada", ADDRESS)
        register(registry, "eve", "ada@b\u00fccher.example")  # for 0.8 it is another one
        register(registry, "bob", "bob@xn--bcher-kva.example")
        register(registry, "joe", "joe@example.com")
        registry.run()
        readdress(registry, "bob", None)
        registry.run()
    return registry


def of_0_8(findings: Findings) -> list[str]:
    """Return what is said of addresses that 0.8 has claimed."""
    return [note for note in findings.notes if "0.8" in note]


async def test_addresses_that_0_8_has_claimed_are_no_difference_and_told_of(
    upgraded: Simulation,
) -> None:
    findings = await verified(upgraded)
    assert_status(findings, CLEAN)
    (note,) = of_0_8(findings)
    assert note.startswith("1 addresses with a label xn-- were claimed by version 0.8")
    assert note.endswith("docs/decisions/email-addresses.md")


async def test_the_way_out_claims_them_anew(upgraded: Simulation) -> None:
    for email in ("other@example.com", ADDRESS):
        readdress(upgraded, "ada", email)
        upgraded.run()
        assert_status(await verified(upgraded), CLEAN)
    # Somebody has the other spelling: the address is that user's.
    readdress(upgraded, "eve", None)
    upgraded.run()
    readdress(upgraded, "ada", ADDRESS)
    upgraded.run()
    findings = await verified(upgraded)
    assert_status(findings, CLEAN)
    assert of_0_8(findings) == []
    register(upgraded, "other", "ada@b\u00fccher.example")
    upgraded.run()
    keys = {key for rows in upgraded.tables["emails"] for key in rows}
    assert keys - {MARKER_KEY} == {email_key(ADDRESS), email_key("joe@example.com")}
    assert not any(b"other" in rows for rows in upgraded.tables["users"])


async def test_nothing_is_kept_of_a_user_who_is_erased(upgraded: Simulation) -> None:
    readdress(upgraded, "ada", None)
    upgraded.run()
    findings = await verified(upgraded)
    assert_status(findings, CLEAN)
    assert of_0_8(findings) == []
    held = [row for rows in upgraded.tables["emails"] for row in rows.values()]
    assert not [row for row in held if b'"ada"' in row]


async def test_a_claim_of_0_8_that_is_lost_is_a_difference(upgraded: Simulation) -> None:
    key = settings().email_keys.key_of_0_8(ADDRESS)
    (claims,) = [log for log, record in upgraded.all(CLAIMS) if record.key == key]
    del claims.records[claims.newest(cast(bytes, key))]
    findings = await verified(upgraded)
    assert findings.counts[Difference.MISSING_CLAIM] == 1
