"""What comes of batches: the agents' decisions over tables in memory."""

import logging

import orjson
import pytest
from structlog.testing import capture_logs

from app.domain.consumed_records import ConsumedRecord
from app.domain.decisions import MAX_QUEUE
from app.domain.email_claims import encode_claim, encode_verdict
from app.domain.keys import partition_of
from app.domain.parsing import MOVED_FROM_HEADER
from app.domain.positions import token
from app.domain.records import decode_row
from app.engine.marker import MARKER_KEY
from app.engine.partitions import Changes
from app.engine.shares import Sent
from tests.support.simulation import DECIDING, PARTITIONS, Record, Simulation, topics

ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}
HOME = partition_of(b"ada", PARTITIONS)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Simulation:
    """Return a registry in memory."""
    return Simulation(monkeypatch)


def letters(registry: Simulation) -> list[Record]:
    """Return the dead letters."""
    return [record for _, record in registry.all(topics.dead_letter)]


def status(registry: Simulation) -> str | None:
    """Return the status of Ada's row."""
    row = registry.tables["users"][HOME].get(b"ada")
    return None if row is None else decode_row(row)["status"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"\xfe\xfe", encode_claim("claim", "eve", "a1")),
        (None, encode_claim("claim", "eve", "a1")),
        (b"key", b"nonsense"),
        (b"key", None),
        (b"key", encode_claim("claim", "", "a1")),
    ],
)
def test_an_unreadable_claim_is_a_dead_letter_and_the_next_is_settled(
    registry: Simulation, key: bytes | None, value: bytes | None
) -> None:
    for number in range(PARTITIONS):
        registry.log(topics.email_claims, number).append(Record(0, key, value))
    registry.arrive(HOME, None, orjson.dumps(ADA))
    registry.run()
    assert status(registry) == "registered"
    assert all(letter.value == (value or b"") for letter in letters(registry))
    assert len(letters(registry)) == PARTITIONS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"\xfe\xfe", encode_verdict(b"key", "a1", "granted", "c1")),
        (b"ada", b"{}"),
        (b"ada", encode_verdict(b"key", "a1", "perhaps", "c1")),
    ],
)
def test_an_unreadable_verdict_is_a_dead_letter_and_the_next_is_applied(
    registry: Simulation, key: bytes, value: bytes
) -> None:
    registry.log(topics.email_decisions, HOME).append(Record(0, key, value))
    registry.arrive(HOME, None, orjson.dumps(ADA))
    registry.run()
    assert (status(registry), len(letters(registry))) == ("registered", 1)


def test_a_verdict_that_is_said_twice_releases_nothing(registry: Simulation) -> None:
    offset = registry.arrive(HOME, None, orjson.dumps(ADA))
    registry.run()
    (verdict,) = (record for _, record in registry.all(topics.email_decisions))
    registry.log(topics.email_decisions, HOME).append(verdict)
    registry.run()
    holders = [row for rows in registry.tables["emails"] for row in rows.values()]
    assert orjson.dumps({"id": "ada", "attempt": token(HOME, offset)}) in holders


def test_an_erasure_overwrites_the_letters_of_its_id(registry: Simulation) -> None:
    """Also those of records that stood in a wrong partition: they were moved before."""
    nonsense = orjson.dumps({"id": "ada", "name": 7})
    for number in range(PARTITIONS):
        registry.arrive(number, None, nonsense)
    registry.run()
    assert [letter.value for letter in letters(registry)] == [nonsense] * PARTITIONS
    registry.arrive(HOME, b"ada", None)
    registry.run()
    newest = {letter.key: letter for letter in letters(registry)}
    assert [letter.value for letter in newest.values()] == [b""] * PARTITIONS
    assert all(dict(letter.headers)["mark"] == b"erased" for letter in newest.values())
    assert b"ada" not in b"".join(registry.tables["users"][HOME].keys())


def test_a_queue_that_is_full_rejects_what_follows_and_its_partition_goes_on(
    registry: Simulation,
) -> None:
    registry.arrive(HOME, None, orjson.dumps(ADA))
    for number in range(50):
        update = {"type": "update", "id": "ada", "email": f"ada{number}@example.com"}
        registry.arrive(HOME, None, orjson.dumps(update))
    changes = Changes()
    log = registry.log(topics.user_registrations, HOME)
    DECIDING.decide_registrations(HOME, log.records, changes)
    marker = registry.markers["users", HOME].after(topics.user_registrations.name, log.end)
    registry.commit("users", HOME, changes, marker)
    registry.run()
    row = decode_row(registry.tables["users"][HOME][b"ada"])
    assert (row["email"], row["version"]) == ("ada15@example.com", 1 + MAX_QUEUE)
    told = [orjson.loads(r.value or b"") for _, r in registry.all(topics.registration_outcomes)]
    rejected = [each["position"] for each in told if each.get("reason") == "too-many-pending"]
    assert rejected == [token(HOME, offset) for offset in range(1 + MAX_QUEUE, 51)]
    assert len(told) == 51
    held = [key for rows in registry.tables["emails"] for key in rows if key != MARKER_KEY]
    assert len(held) == 1


@pytest.mark.parametrize(("level", "lines"), [(logging.DEBUG, 1), (logging.INFO, 0)])
def test_what_became_of_each_record_is_logged_where_that_is_wanted(
    registry: Simulation, caplog: pytest.LogCaptureFixture, level: int, lines: int
) -> None:
    registry.arrive(HOME, None, orjson.dumps(ADA))
    registry.run()
    changes = Changes()
    other = orjson.dumps({**ADA, "name": "Eve"})
    with caplog.at_level(level, "app.deciding"), capture_logs() as logged:
        DECIDING.decide_registrations(HOME, [Record(7, None, other)], changes)
        for committed in changes.on_commit:
            committed()
    told = [each for each in logged if each["event"] == "settled"]
    assert len(told) == lines
    for each in told:
        assert (each["position"], each["outcome"]) == (token(HOME, 7), "id-taken")
        assert "ada" not in repr(each)


# -- a cycle decides in slices: each sees what those before it have changed


def test_a_registration_meets_the_one_before_it_of_the_same_cycle(registry: Simulation) -> None:
    changes = Changes()
    for offset, name in enumerate(("Ada", "Eve")):
        command = orjson.dumps({**ADA, "name": name})
        DECIDING.decide_registrations(HOME, [Record(offset, None, command)], changes)
    row = decode_row(changes.rows[b"ada"] or b"")
    assert (row["name"], row["position"]) == ("Ada", token(HOME, 0))
    assert [offset for offset, *_ in row["queue"]] == [1]


def test_a_claim_meets_the_one_before_it_of_the_same_cycle(registry: Simulation) -> None:
    changes = Changes()
    for offset, user_id in enumerate(("ada", "eve")):
        claim = encode_claim("claim", user_id, f"a{offset}")
        DECIDING.decide_claims(HOME, [Record(offset, b"key", claim)], changes)
    verdicts = {
        key: orjson.loads(value or b"")["verdict"]
        for records in changes.outgoing.values()
        for _, key, value, _ in records
    }
    assert verdicts == {b"ada": "granted", b"eve": "taken"}


def test_a_verdict_that_is_said_twice_in_a_cycle_settles_once(registry: Simulation) -> None:
    registry.arrive(HOME, None, orjson.dumps(ADA))
    registry.run(steps=1)
    changes = Changes()
    for offset in range(2):
        verdict = encode_verdict(b"key", token(HOME, 0), "granted", "c1")
        DECIDING.decide_verdicts(HOME, [Record(offset, b"ada", verdict)], changes)
    assert changes.settled == [0]
    assert len(changes.outgoing[topics.registration_outcomes.name, HOME]) == 1


@pytest.mark.parametrize("read", [[], [Record(99, None, b"nonsense")]])
def test_what_was_just_sent_is_decided_like_what_is_read(
    registry: Simulation, read: list[Record]
) -> None:
    ids = ['a"},{"id":"b', "a,b", "[", "ada", "Ädä"]
    values = [encode_claim("claim", user_id, "a") for user_id in ids]
    sent: list[ConsumedRecord] = [
        Sent(n, 0, b"%d" % n, value, ()) for n, value in enumerate(values)
    ]
    as_sent, as_read = Changes(), Changes()
    DECIDING.decide_claims(HOME, [*sent, *read], as_sent)
    records = [Record(each.offset, each.key, each.value) for each in sent]
    DECIDING.decide_claims(HOME, [*records, *read], as_read)
    assert as_sent.rows == as_read.rows
    assert as_sent.outgoing == as_read.outgoing
    assert len(as_sent.rows) == len(ids)


# -- what is told


def test_who_waits_for_a_record_is_woken_once_nothing_more_comes_of_it(
    registry: Simulation,
) -> None:
    changes = Changes()
    unknown = orjson.dumps({"type": "update", "id": "nobody", "name": "Nobody"})
    home = partition_of(b"nobody", PARTITIONS)
    DECIDING.decide_registrations(
        home, [Record(7, None, unknown), Record(8, None, b"nonsense")], changes
    )
    assert sorted(changes.settled) == [7, 8]
    waiting = Changes()
    DECIDING.decide_registrations(HOME, [Record(9, None, orjson.dumps(ADA))], waiting)
    assert waiting.settled == []


def test_a_moved_record_keeps_its_time_and_says_where_it_stood(registry: Simulation) -> None:
    changes = Changes()
    wrong = (HOME + 1) % PARTITIONS
    DECIDING.decide_registrations(
        wrong, [Record(7, None, orjson.dumps(ADA), timestamp=1_234)], changes
    )
    ((moved, _),) = changes.noted
    assert (moved.partition, moved.key, moved.timestamp_ms) == (HOME, b"ada", 1_234)
    assert dict(moved.headers) == {MOVED_FROM_HEADER: token(wrong, 7).encode()}
    assert changes.settled == [7]
