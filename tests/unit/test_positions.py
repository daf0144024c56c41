"""Positions: opaque, URL-safe, and strict about what is one."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidPositionError
from app.positions import Position

positions = st.builds(
    Position, st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**16 - 1)
)


@given(positions)
def test_token_names_its_position_and_needs_no_quoting(position: Position) -> None:
    token = position.token()
    assert Position.parse(token) == position
    assert quote(token, safe="") == token


@pytest.mark.parametrize(
    "token", ["", "x", "AAAA", "AQAAAAAAAwAAAQAAAAA", "AgAAAAAAAwAAAQAAAAAA", "é" * 20, "A" * 21]
)
def test_anything_else_is_not_a_position(token: str) -> None:
    with pytest.raises(InvalidPositionError):
        Position.parse(token)


@given(st.text(max_size=24))
def test_a_text_is_parsed_or_refused_but_never_reinterpreted(token: str) -> None:
    try:
        position = Position.parse(token)
    except InvalidPositionError:
        return
    assert position.token() == token
