"""Positions: opaque, URL-safe, and strict about what is one."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidPositionError
from app.domain.positions import Position, offset_of, token

positions = st.builds(
    Position, st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**16 - 1)
)

FROZEN = "AQAAAAAAAwAAAAAAAAAJ"


@given(positions)
def test_token_names_its_position_and_needs_no_quoting(position: Position) -> None:
    named = position.token()
    assert Position.parse(named) == position
    assert quote(named, safe="") == named
    assert token(*position) == named


@given(positions)
def test_the_offset_in_a_token_of_ours_is_read_by_itself(position: Position) -> None:
    assert offset_of(position.token()) == position.offset


def test_tokens_are_frozen() -> None:
    # They stand in rows, claims and verdicts, and in other people's bookmarks.
    assert Position(3, 9).token() == token(3, 9) == FROZEN


@pytest.mark.parametrize(
    "text", ["", "x", "AAAA", "AQAAAAAAAwAAAQAAAAA", "AgAAAAAAAwAAAQAAAAAA", "é" * 20, "A" * 21]
)
def test_anything_else_is_not_a_position(text: str) -> None:
    with pytest.raises(InvalidPositionError):
        Position.parse(text)


@given(st.text(max_size=24))
def test_a_text_is_parsed_or_refused_but_never_reinterpreted(text: str) -> None:
    try:
        position = Position.parse(text)
    except InvalidPositionError:
        return
    assert position.token() == text
