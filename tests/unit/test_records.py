"""Records: what is valid, how it travels, and when two are the same."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.records import (
    Registration,
    decode_row,
    encode,
    encode_row,
    field_errors,
    moment,
    public,
    read_registration,
)
from app.records import registrations as validator
from app.registration import first_row
from tests.strategies import Record, registrations

ADA: Registration = {"id": "ada", "name": "Ada", "email": "ada@example.com"}


@given(registrations)
def test_a_registration_survives_the_journey(registration: Registration) -> None:
    assert read_registration(encode(registration)) == registration


@given(registrations)
def test_what_travels_is_the_public_format_and_nothing_else(registration: Registration) -> None:
    said: Registration = {**registration, "type": "registration"}
    assert orjson.loads(encode(said)) == registration


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
        read_registration(rb'{"id":"\ud800","name":"Ada","email":"ada@example.com"}')


def test_a_stored_row_is_shown_as_a_user() -> None:
    row = first_row(3, Record(None, 9, timestamp=1_700_000_000_123), ADA)
    user = public(encode_row(row))
    assert (user.id, user.name, user.email, user.version) == ("ada", "Ada", "ada@example.com", 1)
    assert user.registered_at == datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)
    assert decode_row(encode_row(row)) == row


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
