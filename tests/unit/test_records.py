"""Records: what is valid, how it travels, and when two are the same."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.records import Registration, UserRow, field_errors, moment
from tests.strategies import registrations

ADA: dict[str, Any] = {"id": "ada", "name": "Ada", "email": "ada@example.com"}


@given(registrations)
def test_a_registration_survives_the_journey(registration: Registration) -> None:
    assert Registration.model_validate_json(registration.encode()) == registration


@given(registrations)
def test_what_travels_is_the_public_format_and_nothing_else(registration: Registration) -> None:
    assert orjson.loads(registration.encode()) == {
        "id": registration.id,
        "name": registration.name,
        "email": registration.email,
    }


@given(registrations, registrations)
def test_digests_are_equal_only_for_equal_data(one: Registration, other: Registration) -> None:
    assert one.digest() == one.model_copy().digest()
    assume(one != other)
    assert one.digest() != other.digest()


def test_digest_is_frozen() -> None:
    assert Registration(**ADA).digest() == "b079a70309b5c1ac98dde5918c164960"


def test_digest_knows_where_a_field_ends() -> None:
    one = Registration(id="a", name="bc", email="x@example.com")
    other = Registration(id="ab", name="c", email="x@example.com")
    assert one.digest() != other.digest()


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
        Registration.model_validate(ADA | change)
    assert [error.pointer for error in field_errors(caught.value)] == [pointer]


def test_errors_do_not_repeat_the_input() -> None:
    with pytest.raises(ValidationError) as caught:
        Registration.model_validate(ADA | {"email": "secret-text"})
    (error,) = field_errors(caught.value)
    assert error.detail == "Must be an email address, such as ada@example.com"
    assert "secret-text" not in str(error)


def test_longest_legal_members_count_characters_not_bytes() -> None:
    Registration.model_validate(ADA | {"id": "😀" * 128, "name": "é" * 256})


def test_unknown_members_are_dropped() -> None:
    assert Registration.model_validate(ADA | {"admin": True}) == Registration(**ADA)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValidationError):
        Registration.model_validate_json(rb'{"id":"\ud800","name":"Ada","email":"ada@example.com"}')


def test_a_row_does_not_show_its_digest() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    row = UserRow(
        **ADA,
        status="registered",
        registered_at=at,
        updated_at=at,
        version=1,
        position="p",
        first_digest="d",
    )
    assert UserRow.decode(row.encode()) == row
    assert "first_digest" not in orjson.loads(row.public().encode())


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_timestamp_that_kafka_can_hold_is_a_moment(timestamp_ms: int) -> None:
    at = moment(timestamp_ms)
    assert at.tzinfo is UTC
    assert 1970 <= at.year <= 9999


def test_a_moment_keeps_its_milliseconds() -> None:
    assert moment(1_700_000_000_123).isoformat() == "2023-11-14T22:13:20.123000+00:00"
