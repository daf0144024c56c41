"""Claims: the earliest in a partition wins, and only who holds an address lets go of it."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.email_claims import (
    Claim,
    Holder,
    Verdict,
    decode_holder,
    encode_claim,
    encode_holder,
    encode_verdict,
    read_claim,
    read_verdict,
    settle,
)
from tests.support.strategies import user_ids

ADA = Holder(id="ada", attempt="a1")

claims = st.builds(
    Claim,
    type=st.sampled_from(["claim", "release"]),
    id=st.sampled_from(["ada", "eve", "bob"]),
    attempt=st.sampled_from(["a1", "a2", "a3"]),
)


def claim(user_id: str, attempt: str) -> Claim:
    """Return a claim."""
    return Claim(type="claim", id=user_id, attempt=attempt)


def release(user_id: str, attempt: str) -> Claim:
    """Return a release."""
    return Claim(type="release", id=user_id, attempt=attempt)


# -- E1


def test_a_free_address_is_granted() -> None:
    assert settle(None, claim("ada", "a1")) == (ADA, "granted")


def test_an_address_that_another_id_holds_is_taken() -> None:
    assert settle(ADA, claim("eve", "a2")) == (ADA, "taken")
    # An attempt is a position, which is one id's: but the id alone decides.
    assert settle(ADA, claim("eve", "a1")) == (ADA, "taken")


def test_who_holds_an_address_and_claims_it_anew_holds_it_by_the_new_attempt() -> None:
    again = Holder(id="ada", attempt="a2")
    assert settle(ADA, claim("ada", "a2")) == (again, "granted")
    # The release of the old attempt, which may come later, lets nobody else in.
    assert settle(again, release("ada", "a1")) == (again, None)


def test_the_same_claim_once_more_changes_nothing() -> None:
    assert settle(ADA, claim("ada", "a1")) == (ADA, "granted")


# -- E2


def test_who_holds_an_address_lets_go_of_it() -> None:
    assert settle(ADA, release("ada", "a1")) == (None, None)


@pytest.mark.parametrize("other", [release("ada", "a2"), release("eve", "a1")])
def test_a_release_by_another_id_or_attempt_does_nothing(other: Claim) -> None:
    assert settle(ADA, other) == (ADA, None)


def test_a_release_of_what_nobody_holds_does_nothing() -> None:
    assert settle(None, release("ada", "a1")) == (None, None)


# -- both


@given(st.lists(claims, max_size=20))
def test_the_earliest_claim_wins_until_it_is_released(history: list[Claim]) -> None:
    holder = None
    for each in history:
        before = None if holder is None else Holder(**holder)
        holder, verdict = settle(holder, each)
        if each["type"] == "release":
            assert verdict is None
            assert holder in (before, None)
        elif verdict == "granted":
            assert holder == Holder(id=each["id"], attempt=each["attempt"])
            assert before is None or before["id"] == each["id"]
        else:
            assert verdict == "taken"
            assert holder == before
            assert before is not None
            assert before["id"] != each["id"]


def test_nothing_that_was_given_is_changed() -> None:
    holder, asked = Holder(id="ada", attempt="a1"), claim("ada", "a2")
    settle(holder, asked)
    assert holder == ADA
    assert asked == claim("ada", "a2")


# -- as they travel


@given(user_ids, st.sampled_from(["claim", "release"]))
def test_a_claim_survives_the_journey(user_id: str, kind: Any) -> None:
    assert read_claim(encode_claim(kind, user_id, "a1")) == Claim(
        type=kind, id=user_id, attempt="a1"
    )


@pytest.mark.parametrize("word", ["granted", "taken"])
def test_a_verdict_survives_the_journey(word: Any) -> None:
    travelling = encode_verdict(b"key=", "a1", word, "c7")
    assert read_verdict(travelling) == Verdict(
        email_key="key=", attempt="a1", verdict=word, at="c7"
    )


@given(user_ids)
def test_a_holder_survives_the_journey(user_id: str) -> None:
    holder = Holder(id=user_id, attempt="a1")
    assert decode_holder(encode_holder(holder)) == holder


def test_formats_are_frozen() -> None:
    assert encode_claim("claim", "ada", "a1") == b'{"type":"claim","id":"ada","attempt":"a1"}'
    assert encode_holder(ADA) == b'{"id":"ada","attempt":"a1"}'
    assert encode_verdict(b"k", "a1", "taken", "c7") == (
        b'{"email_key":"k","attempt":"a1","verdict":"taken","at":"c7"}'
    )


def test_members_that_are_not_known_are_ignored() -> None:
    value = orjson.dumps({**claim("ada", "a1"), "new": 1})
    assert read_claim(value) == claim("ada", "a1")


@pytest.mark.parametrize("change", [{"type": "command"}, {"id": ""}, {"id": 7}, {"attempt": None}])
def test_what_is_no_claim_is_refused(change: dict[str, Any]) -> None:
    value = orjson.dumps({**claim("ada", "a1"), **change})
    with pytest.raises(ValidationError):
        read_claim(value)


@pytest.mark.parametrize("change", [{"verdict": "perhaps"}, {"email_key": 7}, {"at": None}])
def test_what_is_no_verdict_is_refused(change: dict[str, Any]) -> None:
    verdict = Verdict(email_key="k", attempt="a1", verdict="taken", at="c7")
    with pytest.raises(ValidationError):
        read_verdict(orjson.dumps({**verdict, **change}))


@pytest.mark.parametrize("value", [b"", b"null", b"[]", b"{}", b"\xff"])
def test_what_is_nothing_of_the_kind_is_refused(value: bytes) -> None:
    for read in (read_claim, read_verdict):
        with pytest.raises(ValidationError):
            read(value)
