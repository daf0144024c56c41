"""Records: what is valid, how it travels, and when two are the same."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.addresses import EmailKeys
from app.domain.decisions import Decisions
from app.domain.outcomes import Decided, Outcome
from app.domain.positions import token
from app.domain.records import (
    Erasure,
    Open,
    Queued,
    Registration,
    Update,
    UserRow,
    decode_row,
    encode,
    encode_outcome,
    encode_row,
    erasure_in,
    field_errors,
    is_email,
    is_user_id,
    moment,
    outcome_members,
    public,
    registration_in,
    update_in,
)
from app.domain.records import registrations as validator
from tests.support.strategies import characters, erasures, registrations, updates, user_ids

ADA: Registration = {"id": "ada", "name": "Ada", "email": "ada@example.com"}


@given(registrations)
def test_a_registration_survives_the_journey(registration: Registration) -> None:
    assert registration_in(encode(registration)) == registration


@given(registrations)
def test_what_travels_is_the_public_format_and_nothing_else(registration: Registration) -> None:
    said: Registration = {**registration, "type": "registration"}
    assert orjson.loads(encode(said)) == registration


@given(updates)
def test_an_update_survives_the_journey(update: Update) -> None:
    assert update_in(encode(update)) == update


@given(erasures)
def test_an_erasure_survives_the_journey(erasure: Erasure) -> None:
    assert erasure_in(encode(erasure)) == erasure


@given(updates)
def test_of_an_update_what_it_does_not_change_does_not_travel(update: Update) -> None:
    assert orjson.loads(encode(update)) == update


def test_what_travels_has_one_order_of_members() -> None:
    assert encode({"email": "e@x.co", "name": "n", "id": "i"}) == (
        b'{"id":"i","name":"n","email":"e@x.co"}'
    )
    assert encode({"email": "e@x.co", "id": "i", "type": "update"}) == (
        b'{"type":"update","id":"i","email":"e@x.co"}'
    )


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"id": ""}, "/id"),
        ({"id": "a" * 129}, "/id"),
        ({"id": "a\nb"}, "/id"),
        ({"id": "a\x7fb"}, "/id"),
        ({"id": "a\x85b"}, "/id"),
        ({"id": 7}, "/id"),
        ({"id": None}, "/id"),
        ({"name": ""}, "/name"),
        ({"name": "n" * 257}, "/name"),
        ({"email": "ada"}, "/email"),
        ({"type": "update"}, "/type"),
    ],
)
def test_an_invalid_member_is_named(change: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validator.validate_python(ADA | change)
    assert [error.pointer for error in field_errors(caught.value)] == [pointer]


def test_errors_do_not_repeat_the_input() -> None:
    with pytest.raises(ValidationError) as caught:
        validator.validate_python(ADA | {"email": "secret-text"})
    (error,) = field_errors(caught.value)
    assert error.detail == "Must be an email address, such as ada@example.com"
    assert "secret-text" not in str(error)


def test_longest_legal_members_count_characters_not_bytes() -> None:
    validator.validate_python(ADA | {"id": "😀" * 128, "name": "é" * 256})


def test_unknown_members_are_dropped() -> None:
    assert validator.validate_python(ADA | {"admin": True}) == ADA


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValidationError):
        registration_in(rb'{"id":"\ud800","name":"Ada","email":"ada@example.com"}')


@pytest.mark.parametrize(
    "change",
    [
        {"type": "registration"},
        {"type": None},
        {"id": ""},
        {"name": ""},
        {"name": None},
        {"email": "ada"},
    ],
)
def test_an_invalid_update_is_refused(change: dict[str, Any]) -> None:
    update = {"type": "update", "id": "ada", "name": "Ada", "email": "ada@example.com"}
    assert update_in(orjson.dumps(update)) == update
    with pytest.raises(ValidationError):
        update_in(orjson.dumps(update | change))


def test_an_update_says_that_it_is_one() -> None:
    with pytest.raises(ValidationError):
        update_in(b'{"id":"ada","name":"Ada"}')


@given(st.text(characters, max_size=130))
def test_what_may_be_an_id_is_the_same_for_keys_and_values(text: str) -> None:
    try:
        validator.validate_python(ADA | {"id": text})
    except ValidationError:
        assert not is_user_id(text)
    else:
        assert is_user_id(text)


@given(user_ids)
def test_every_id_of_a_record_may_be_one(user_id: str) -> None:
    assert is_user_id(user_id)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("ada@example.com", True), (" ada@example.com ", True), ("ada", False), ("", False)],
)
def test_addresses_are_told_by_the_rule_for_records(text: str, is_one: bool) -> None:
    assert is_email(text) == is_one


# -- rows


def row() -> UserRow:
    """Return the row of a user who waits for her address."""
    decisions = Decisions(3, EmailKeys(b"a secret of tests").key)
    made = decisions.ask(None, b"ada", Queued(9, 1_700_000_000_123, ADA))
    assert made is not None
    return made


def test_a_stored_row_is_shown_as_a_user() -> None:
    user = public(encode_row(row()))
    assert (user.id, user.name, user.email, user.version) == ("ada", "Ada", "ada@example.com", 1)
    assert (user.status, user.position) == ("pending", token(3, 9))
    assert user.registered_at == datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)
    assert decode_row(encode_row(row())) == row()


def test_of_a_row_only_the_user_is_shown() -> None:
    wanted = Open(position=token(3, 10), at=0, name="Secret", email="secret@example.com")
    full: UserRow = {
        **row(),
        "attempt": token(3, 9),
        "first_digest": "0f",
        "open": wanted,
        "queue": [(11, 0, None)],
    }
    assert public(encode_row(full)) == public(encode_row(row()))
    assert orjson.loads(public(encode_row(full)).encode()).keys() == {
        "id",
        "name",
        "email",
        "status",
        "registered_at",
        "updated_at",
        "version",
        "position",
    }


def test_what_waits_is_stored_with_its_row() -> None:
    update = Update(type="update", id="ada", name="Ada L.")
    waiting: UserRow = {**row(), "queue": [(10, 0, update), (11, 1, None)]}
    stored = decode_row(encode_row(waiting))
    assert [Queued(*each) for each in stored["queue"]] == [
        Queued(10, 0, update),
        Queued(11, 1, None),
    ]
    # What was stored once is stored the same again.
    assert encode_row(stored) == encode_row(waiting)


# -- outcomes, as they are told


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_is_told_with_its_position_and_reason(outcome: Outcome) -> None:
    position = token(3, 9)
    told = orjson.loads(encode_outcome(position, Decided(9, "ada", outcome)))
    assert told == outcome_members(position, outcome)
    assert told["position"] == position
    assert Outcome.from_words(told["outcome"], told.get("reason")) is outcome
    assert ("reason" in told) == (told["outcome"] == "rejected")


def test_of_a_moved_record_the_new_position_is_told() -> None:
    told = encode_outcome(token(3, 9), Decided(9, "ada", Outcome.MOVED), token(4, 1))
    assert orjson.loads(told) == {
        "position": token(3, 9),
        "outcome": "moved",
        "moved_to": token(4, 1),
    }


# -- moments


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_timestamp_that_kafka_can_hold_is_a_moment(timestamp_ms: int) -> None:
    at = datetime.fromisoformat(moment(timestamp_ms))
    assert at.tzinfo is not None
    assert 1970 <= at.year <= 9999


@given(st.lists(st.integers(0, 253_402_300_799_999), min_size=2, max_size=2))
def test_moments_sort_as_their_timestamps_do(timestamps: list[int]) -> None:
    assert sorted(timestamps) == sorted(timestamps, key=moment)


def test_a_moment_keeps_its_milliseconds() -> None:
    assert moment(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert moment(1_700_000_000_000) == "2023-11-14T22:13:20.000Z"
