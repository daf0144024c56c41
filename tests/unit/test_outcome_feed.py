"""Cursors of outcomes: what a reader gives back to go on where it has stopped."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.connection import Connection
from app.config.settings import Settings
from app.domain.errors import BrokerUnavailableError, InvalidCursorError
from app.kafka import topics
from app.query.outcome_feed import OutcomeFeed, decoded, encoded
from local.machine import free_port

offsets = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=200)


@given(offsets, st.integers(0, 5))
def test_a_cursor_holds_its_offsets_and_new_partitions_begin_at_their_beginning(
    offsets: list[int], added: int
) -> None:
    assert decoded(encoded(offsets), len(offsets) + added) == offsets + [0] * added


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "?",
        "AQ",
        encoded([1, 2, 3]),
        encoded([2**63]),
        encoded([1])[:-1],
        base64.urlsafe_b64encode(b"\x02" + bytes(8)).decode(),
        "ä",
    ],
)
def test_what_is_no_cursor_of_these_partitions_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        decoded(cursor, 2)


async def test_without_a_broker_a_reader_is_told_so() -> None:
    topic = topics.declare(Settings()).registration_outcomes
    feed = OutcomeFeed(Connection(f"127.0.0.1:{free_port()}"), topic)
    with pytest.raises(BrokerUnavailableError):
        await anext(feed.follow(None))
