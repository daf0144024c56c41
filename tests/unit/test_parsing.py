"""Parsing: any bytes are a command, a dead letter, or belong elsewhere; each is one of them."""

import contextlib
import gc
import json
import sys
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.authors import author_of
from app.domain.consumed_records import UNREADABLE_HEADER, UnreadableRecord, are_text, pack, unpack
from app.domain.errors import UnreadableRecordError
from app.domain.keys import encode_key, partition_of
from app.domain.parsing import (
    MAX_MOVED_BYTES,
    MOVED_FROM_HEADER,
    Sorted,
    id_of,
    read,
    read_command,
    sort,
)
from app.domain.records import Command, Erasure, Headers, Registration, Update, encode
from tests.support.strategies import Record, erasures, registrations, updates, user_ids

PARTITIONS = 8
ADA = Registration(id="ada", name="Ada", email="ada@example.com")
RENAMED = Update(type="update", id="ada", name="Ada L.")
HOME = partition_of(b"ada", PARTITIONS)
WRONG = (HOME + 1) % PARTITIONS
MOVED = [(MOVED_FROM_HEADER, b"p")]


def sort_one(arrival: Record, partition: int = HOME) -> Sorted:
    """Return what becomes of one record."""
    return sort(partition, [arrival], PARTITIONS)


def cause_of(batch: Sorted) -> str:
    """Return why the one record of a batch is unreadable."""
    ((_, error),) = batch.unreadable
    assert (batch.here, batch.keys, batch.elsewhere) == ([], [], [])
    return error.cause


# -- what a record asks for


@given(registrations)
def test_a_registration_is_read_with_its_ids_key(command: Registration) -> None:
    assert read(Record(encode(command))) == (command, encode_key(command["id"]))


@given(updates | erasures)
def test_a_change_is_read_with_its_ids_key(command: Update | Erasure) -> None:
    assert read(Record(encode(command))) == (command, encode_key(command["id"]))


@given(user_ids)
def test_a_key_without_a_value_asks_for_an_erasure(user_id: str) -> None:
    assert read(Record(None, key=user_id.encode())) == (None, user_id.encode())


def test_no_type_means_a_registration_and_it_may_say_so() -> None:
    said: Registration = {**ADA, "type": "registration"}
    assert read_command(orjson.dumps(ADA)) == ADA
    assert read_command(orjson.dumps(said)) == said


def test_the_id_in_the_value_counts_whatever_the_key_says() -> None:
    for key in (None, b"eve", b"\xff", b""):
        assert read(Record(encode(ADA), key=key)) == (ADA, b"ada")


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (b"not json", "invalid-json"),
        (b"", "invalid-json"),
        (b"\xff\xfe", "invalid-json"),
        (b'{"id":"a"', "invalid-json"),
        (b'{"type":"update","id":"\\ud800","name":"x"}', "invalid-json"),
        (b"[]", "invalid-record"),
        (b"null", "invalid-record"),
        (b"7", "invalid-record"),
        (b"{}", "invalid-record"),
        (b'{"id":"ada","name":"Ada","email":"nonsense"}', "invalid-record"),
        (b'{"id":"a\\u0000","name":"Ada","email":"ada@example.com"}', "invalid-record"),
        (b'{"type":"registration","id":"ada"}', "invalid-record"),
        (b'{"type":"update"}', "invalid-record"),
        (b'{"type":"update","id":"ada"}', "invalid-record"),
        (b'{"type":"update","id":"ada","name":""}', "invalid-record"),
        (b'{"type":"update","id":"ada","name":null}', "invalid-record"),
        (b'{"type":"update","id":"ada","email":"nonsense"}', "invalid-record"),
        (b'{"type":"update","id":7,"name":"Ada"}', "invalid-record"),
        (b'{"type":"erasure","id":"ada"}', "unknown-type"),
        (b'{"type":"Update","id":"ada","name":"x"}', "unknown-type"),
        (b'{"type":7,"id":"ada"}', "unknown-type"),
        (b'{"type":null,"id":"ada"}', "unknown-type"),
        (b'{"type":["update"],"id":"ada"}', "unknown-type"),
        (None, "no-value"),
    ],
)
def test_an_unreadable_value_has_a_cause(value: bytes | None, cause: str) -> None:
    with pytest.raises(UnreadableRecordError) as caught:
        read(Record(value))
    assert caught.value.cause == cause


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"a\nb", b"a" * 129, "\x85".encode()])
def test_a_tombstone_needs_an_id_as_key(key: bytes | None) -> None:
    with pytest.raises(UnreadableRecordError) as caught:
        read(Record(None, key=key))
    assert caught.value.cause == "no-value"


def test_a_reason_names_members_and_does_not_repeat_what_they_hold() -> None:
    with pytest.raises(UnreadableRecordError) as caught:
        read(Record(b'{"id":"ada","name":"","email":"secret-text"}'))
    assert "/name: Must not be empty" in str(caught.value)
    assert "/email: " in str(caught.value)
    assert "secret-text" not in str(caught.value)


@given(st.binary(max_size=200), st.none() | st.binary(max_size=20))
def test_any_bytes_are_read_or_refused_with_a_cause(value: bytes, key: bytes | None) -> None:
    # Any other error than this one fails the test.
    with contextlib.suppress(UnreadableRecordError):
        read(Record(value, key=key))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["update", "ada"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "id", "name"]), inner),
    max_leaves=8,
)


@given(_json)
def test_any_json_is_read_or_refused_with_a_cause(given_json: Any) -> None:
    with contextlib.suppress(UnreadableRecordError):
        # Python's own, which also writes what others may: numbers of any size, and NaN.
        read(Record(json.dumps(given_json).encode()))


# -- the id that a record names


@pytest.mark.parametrize(
    ("value", "key", "named"),
    [
        (encode(ADA), b"eve", "ada"),
        (b'{"id":"ada","name":7}', b"eve", "ada"),
        (b'{"id":""}', b"eve", "eve"),
        (b'{"id":7}', b"eve", "eve"),
        (b'{"id":"a\\u0000"}', b"eve", "eve"),
        (b'{"id":"' + b"a" * 129 + b'"}', None, None),
        (b'["id"]', b"eve", "eve"),
        (b"not json", b"eve", "eve"),
        (b"not json", b"\xff", None),
        (b"not json", b"", None),
        (b"not json", None, None),
        (None, b"eve", "eve"),
        (None, None, None),
    ],
)
def test_a_record_names_an_id_in_its_value_or_else_in_its_key(
    value: bytes | None, key: bytes | None, named: str | None
) -> None:
    assert id_of(Record(value, key=key)) == named


# -- where it belongs


def test_a_batch_of_registrations_at_home_is_taken_as_it_is() -> None:
    batch = sort_one(Record(encode(ADA), 4))
    assert batch.here == [(Record(encode(ADA), 4), ADA)]
    assert batch.keys == [b"ada"]
    assert (batch.elsewhere, batch.unreadable) == ([], [])


def test_updates_and_tombstones_are_taken_in_their_order_beside_registrations() -> None:
    values = [encode(ADA), encode(RENAMED), None, encode(ADA)]
    arrivals = [Record(value, offset, key=b"ada") for offset, value in enumerate(values)]
    batch = sort(HOME, arrivals, PARTITIONS)
    assert batch.here == list(zip(arrivals, [ADA, RENAMED, None, ADA], strict=True))
    assert batch.keys == [b"ada"] * 4


def test_nothing_is_sorted_into_nothing() -> None:
    assert sort(0, [], PARTITIONS) == Sorted()


@pytest.mark.parametrize("command", [ADA, RENAMED, None])
def test_a_record_in_a_wrong_partition_is_sent_home_under_its_ids_key(command: Command) -> None:
    value = None if command is None else orjson.dumps({**command, "unknown": 1})
    key = b"ada" if command is None else b"of their own"
    arrival = Record(value, key=key, headers=[("theirs", b"1")])
    (move,) = sort_one(arrival, WRONG).elsewhere
    assert (move.arrival, move.partition, move.id, move.key) == (arrival, HOME, "ada", b"ada")
    # As it is understood, and nothing else.
    assert move.value == (None if command is None else encode(command))
    assert move.headers == ()


@pytest.mark.parametrize("command", [ADA, RENAMED, None])
def test_whose_key_a_record_was_written_with_goes_home_with_it(command: Command) -> None:
    value = None if command is None else orjson.dumps(command)
    headers = [("theirs", b"1"), ("by", b"two words"), ("by", b"shop-1"), ("by", b"other")]
    (move,) = sort_one(Record(value, key=b"ada", headers=headers), WRONG).elsewhere
    assert list(move.headers) == [("by", b"shop-1")]


@pytest.mark.parametrize("named", [b"", b"a" * 65, b"a b", b"\xff", b"a\n", None])
def test_what_is_no_name_of_a_key_names_nobody(named: bytes | None) -> None:
    headers = cast(Any, [("by", named)])
    assert author_of(headers) is None
    (move,) = sort_one(Record(encode(ADA), key=b"ada", headers=headers), WRONG).elsewhere
    assert list(move.headers) == []


def test_a_tombstone_under_no_id_stays_as_a_letter_wherever_it_stands() -> None:
    for partition in range(PARTITIONS):
        assert cause_of(sort_one(Record(None), partition)) == "no-value"


def test_an_unreadable_record_at_home_is_a_letter() -> None:
    assert cause_of(sort_one(Record(b'{"id":"ada"}'))) == "invalid-record"


def test_an_unreadable_record_that_names_an_id_goes_home_as_it_is() -> None:
    arrival = Record(b'{"id":"ada"}', 3, key=b"k", headers=[("theirs", b"1")])
    batch = sort_one(arrival, WRONG)
    (move,) = batch.elsewhere
    assert (move.partition, move.id) == (HOME, "ada")
    assert (move.key, move.value) == (arrival.key, arrival.value)
    assert move.headers == arrival.headers
    assert batch.unreadable == []


def test_an_unreadable_record_that_names_no_id_stays_where_it_is() -> None:
    assert cause_of(sort_one(Record(b"not json"), WRONG)) == "invalid-json"


def test_an_unreadable_record_too_large_to_travel_stays_where_it_is() -> None:
    beginning = b'{"id":"ada","name":7,"x":"'
    longest = beginning + b"x" * (MAX_MOVED_BYTES - len(beginning) - 2) + b'"}'
    assert len(longest) == MAX_MOVED_BYTES
    assert len(sort_one(Record(longest), WRONG).elsewhere) == 1
    longer = longest.replace(b"xx", b"xxx", 1)
    assert cause_of(sort_one(Record(longer), WRONG)) == "invalid-record"


def test_a_readable_record_travels_however_large_it_came() -> None:
    value = orjson.dumps({**ADA, "unknown": "x" * MAX_MOVED_BYTES})
    (move,) = sort_one(Record(value), WRONG).elsewhere
    assert move.value == encode(ADA)


@pytest.mark.parametrize("value", [encode(ADA), encode(RENAMED), None])
def test_whatever_a_record_says_of_its_past_it_goes_home_and_stays_there(
    value: bytes | None,
) -> None:
    """There may be more partitions since it was moved; and any producer can write the header."""
    arrival = Record(value, key=b"ada", headers=MOVED)
    (move,) = sort_one(arrival, WRONG).elsewhere
    assert (move.partition, move.key, move.headers) == (HOME, b"ada", ())
    assert not sort_one(arrival, HOME).elsewhere


def test_so_does_an_unreadable_one_which_is_a_letter_there() -> None:
    arrival = Record(b'{"id":"ada"}', headers=MOVED)
    assert sort_one(arrival, WRONG).elsewhere[0].partition == HOME
    assert cause_of(sort_one(arrival, HOME)) == "invalid-record"


def test_a_moved_record_at_home_is_as_any_other() -> None:
    assert sort_one(Record(encode(ADA), headers=MOVED)).keys == [b"ada"]


@given(st.lists(registrations | updates | erasures, max_size=20), st.integers(0, PARTITIONS - 1))
def test_sorting_keeps_every_record_once_and_in_order(
    commands: list[Registration | Update | Erasure], partition: int
) -> None:
    came = [Record(encode(command), offset) for offset, command in enumerate(commands)]
    batch = sort(partition, [*came, Record(b"?", len(came))], PARTITIONS)
    assert batch.keys == [encode_key(command["id"]) for _, command in batch.here if command]
    assert all(partition_of(key, PARTITIONS) == partition for key in batch.keys)
    for move in batch.elsewhere:
        assert move.partition == partition_of(encode_key(move.id), PARTITIONS) != partition
    assert [arrival.offset for arrival, _ in batch.unreadable] == [len(came)]
    here = [arrival.offset for arrival, _ in batch.here]
    elsewhere = [move.arrival.offset for move in batch.elsewhere]
    assert sorted(here + elsewhere) == list(range(len(came)))
    assert here == sorted(here)
    assert elsewhere == sorted(elsewhere)


anything = st.builds(
    Record,
    value=st.none()
    | st.binary(max_size=30)
    | st.builds(encode, registrations | updates | erasures)
    | st.builds(lambda user_id: orjson.dumps({"id": user_id}), user_ids),
    key=st.none() | st.builds(encode_key, user_ids),
    headers=st.sampled_from([[], MOVED]),
)


@given(st.lists(anything, max_size=10), st.integers(0, PARTITIONS - 1))
def test_a_record_is_sorted_the_same_in_any_company(arrivals: list[Record], partition: int) -> None:
    alone = [sort(partition, [arrival], PARTITIONS) for arrival in arrivals]
    together = sort(partition, arrivals, PARTITIONS)
    assert together.here == [each for batch in alone for each in batch.here]
    assert together.keys == [each for batch in alone for each in batch.keys]
    assert together.elsewhere == [each for batch in alone for each in batch.elsewhere]
    assert [(arrival, error.cause) for arrival, error in together.unreadable] == [
        (arrival, error.cause) for batch in alone for arrival, error in batch.unreadable
    ]


@pytest.mark.parametrize("number", ["1e999", "NaN", "123456789012345678901234567890"])
def test_a_member_that_nobody_asks_for_may_be_any_number(number: str) -> None:
    update = b'{"type":"update","id":"ada","name":"x","n":%b}' % number.encode()
    assert read_command(update)["name"] == "x"


# -- records that cannot be given as they are

BAD = b"\xffname".decode(errors="surrogateescape")


def unreadable(value: bytes | None, offset: int = 0, headers: Headers = ((BAD, b"1"),)) -> Any:
    """Return a record with a header name that is not UTF-8."""
    return UnreadableRecord(offset, 5, None, value, headers, UNREADABLE_HEADER, 9)


@given(st.lists(st.tuples(st.binary(max_size=9), st.none() | st.binary(max_size=9))))
def test_packed_headers_are_unpacked_as_they_were(pairs: list[tuple[bytes, Any]]) -> None:
    headers = [(name.decode(errors="surrogateescape"), value) for name, value in pairs]
    assert list(unpack(pack(headers))) == headers


@given(st.binary() | st.sampled_from([b"[1]", b"{}", b"[[1,2]]", b'[["a",null]]']))
def test_what_was_not_packed_is_no_header(packed: bytes) -> None:
    assert list(unpack(packed)) == []


def test_a_header_name_that_is_not_utf_8_makes_a_letter_beside_what_can_be_read() -> None:
    good = [Record(encode(ADA), offset) for offset in (0, 2)]
    bad = unreadable(good[0].value, 1)
    batch = sort(HOME, [good[0], bad, good[1]], PARTITIONS)
    assert [arrival.offset for arrival, _ in batch.here] == [0, 2]
    ((arrival, error),) = batch.unreadable
    assert (arrival, error.cause) == (bad, "unreadable-header")


def test_such_a_record_in_a_wrong_partition_goes_home_and_is_as_unreadable_there() -> None:
    value = encode(ADA)
    (move,) = sort(WRONG, [unreadable(value)], PARTITIONS).elsewhere
    assert (move.partition, move.value) == (HOME, value)
    assert are_text(move.headers)
    moved = Record(value, 7, headers=[*move.headers, (MOVED_FROM_HEADER, b"x")])
    batch = sort(HOME, [moved], PARTITIONS)
    assert not batch.here
    assert not batch.elsewhere
    ((arrival, error),) = batch.unreadable
    assert error.cause == "unreadable-header"
    assert list(arrival.headers) == [(BAD, b"1"), (MOVED_FROM_HEADER, b"x")]


def test_a_record_with_large_headers_does_not_travel_either() -> None:
    large = unreadable(b'{"id":"ada"}', headers=((BAD, b"x" * MAX_MOVED_BYTES),))
    assert len(sort(WRONG, [large], PARTITIONS).unreadable) == 1


def test_sorting_leaves_no_cycle_that_keeps_records_until_garbage_is_collected() -> None:
    records = [Record(b"nonsense"), unreadable(b"{}"), Record(encode(ADA))]
    gc.collect()
    gc.disable()
    try:
        before = sys.getrefcount(records[0])
        # An assertion would keep what it compares.
        letters = len(sort(HOME, records, PARTITIONS).unreadable)
        after = sys.getrefcount(records[0])
    finally:
        gc.enable()
    assert (letters, after) == (2, before)
