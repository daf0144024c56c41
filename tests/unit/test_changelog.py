"""Whether a store and a changelog belong together, and what the marker says."""

import pytest
from hypothesis import given

from app.engine.changelog import LogState, StoreState, is_fuller, why_rebuild
from app.engine.marker import MARKER_KEY, RESERVED_PREFIX, Marker, is_of_0_8
from tests.support.strategies import user_ids

MINE = Marker(log="a", next={"source": 7})
OTHER = Marker(log="b", next={"source": 7})


@pytest.mark.parametrize(
    ("store", "changelog", "why"),
    [
        (StoreState(None, None), LogState(0, 0, None), None),
        (StoreState(None, None), LogState(5, 90, MINE), None),
        (StoreState(88, MINE), LogState(0, 90, MINE), None),
        (StoreState(40, MINE.after("source", 3)), LogState(0, 90, MINE), None),
        (StoreState(89, MINE), LogState(90, 90, MINE), None),
        (StoreState(90, MINE), LogState(0, 90, MINE), "ahead"),
        (StoreState(7, MINE), LogState(0, 0, None), "ahead"),
        (StoreState(40, MINE), LogState(42, 90, MINE), "begins after"),
        (StoreState(40, MINE), LogState(0, 90, OTHER), "another"),
        (StoreState(40, None), LogState(0, 90, MINE), "another"),
        (StoreState(40, MINE), LogState(0, 90, None), "another"),
        (StoreState(40, MINE, too_old=True), LogState(0, 90, MINE), "idle"),
    ],
)
def test_a_store_goes_on_only_where_its_changelog_leads_on(
    store: StoreState, changelog: LogState, why: str | None
) -> None:
    reason = why_rebuild(store, changelog)
    assert why in reason if why and reason else why is reason


@pytest.mark.parametrize(
    ("store", "changelog", "fuller"),
    [
        (StoreState(7, MINE), LogState(0, 0, None), True),
        (StoreState(7, MINE), LogState(0, 90, OTHER), False),
        (StoreState(7, MINE), LogState(0, 90, OTHER.after("source", 6)), True),
        (StoreState(7, MINE.after("more", 1)), LogState(0, 90, OTHER), True),
        (StoreState(7, MINE), LogState(0, 90, OTHER.after("more", 1)), False),
        (StoreState(7, None), LogState(0, 0, None), False),
        (StoreState(7, Marker.first()), LogState(0, 0, None), False),
        # People have restored it as it was before.
        (StoreState(7, MINE), LogState(0, 1, MINE.after("source", 5).for_copy()), False),
        # Whoever sealed it has copied the rows.
        (StoreState(7, MINE), LogState(0, 1, Marker.last()), False),
        (
            StoreState(7, MINE.under("", {"source": "one"})),
            LogState(0, 90, OTHER.under("", {"source": "another"}).after("source", 99)),
            True,
        ),
        (
            StoreState(7, MINE.under("", {"source": "one"})),
            LogState(0, 90, OTHER.under("", {"source": "one"})),
            False,
        ),
    ],
)
def test_a_store_is_not_rebuilt_from_a_changelog_that_lost_something(
    store: StoreState, changelog: LogState, fuller: bool
) -> None:
    assert is_fuller(store, changelog) is fuller


def test_a_marker_survives_its_encoding_and_remembers_all_topics() -> None:
    marker = MINE.after("other", 3).after("source", 9)
    assert Marker.decode(marker.encode()) == marker
    assert marker.next == {"source": 9, "other": 3}
    assert marker.log == MINE.log


def test_a_marker_knows_the_epoch_of_what_was_applied_last_if_there_was_any() -> None:
    marker = MINE.after("source", 8, 3).after("other", 1, 0).after("source", 9, -1)
    assert marker.epochs == {"source": 3, "other": 0}
    assert marker.after("source", 10).epochs == marker.epochs
    assert Marker.decode(marker.encode()) == marker


def test_a_marker_of_other_rules_keeps_what_is_applied() -> None:
    marker = MINE.after("source", 8, 3).under("3:rules", {"source": "id"})
    assert (marker.rules, marker.ids, marker.log) == ("3:rules", {"source": "id"}, MINE.log)
    assert (marker.next, marker.epochs) == ({"source": 8}, {"source": 3})


def test_a_copy_of_a_log_has_another_name_and_sources_of_its_own() -> None:
    """Ids and epochs are those of the topics before."""
    marker = MINE.after("source", 8, 3).under("3:rules", {"source": "id"})
    copy = marker.for_copy()
    assert copy.log != marker.log
    assert (copy.next, copy.rules) == (marker.next, marker.rules)
    assert (copy.ids, copy.epochs) == ({}, {})


def test_a_marker_of_0_8_is_read() -> None:
    marker = Marker.decode(b'{"log":"a","next":{"source":7},"rules":"2:abc"}')
    assert (marker.ids, marker.epochs, marker.is_sealed) == ({}, {}, False)
    assert is_of_0_8(marker.rules, "3:abc")
    assert not is_of_0_8(marker.rules, "3:xyz")
    assert not is_of_0_8("3:abc", "3:abc")
    assert not is_of_0_8("", "3:abc")


def test_each_log_gets_a_name_of_its_own() -> None:
    assert Marker.first().log != Marker.first().log


def test_of_what_was_applied_unread_the_epoch_is_not_known() -> None:
    read = MINE.after("source", 8, 3)
    assert (read.epoch("source"), read.last_read("source")) == (3, (8, 3))
    ahead = read.ahead("source", 10).ahead("source", 12)
    assert ahead.next["source"] == 12
    assert (ahead.epoch("source"), ahead.last_read("source")) == (-1, (8, 3))
    assert Marker.decode(ahead.encode()) == ahead
    # What ends a transaction has an epoch of its own.
    assert ahead.after("source", 12, -1).last_read("source") == (8, 3)
    assert ahead.after("source", 13, 4).last_read("source") == (13, 4)
    assert ahead.going_on("source", 9, "id").last_read("source") == (9, -1)
    assert ahead.for_copy().last_read("source") == (12, -1)
    assert Marker.first().last_read("source") == (0, -1)


@given(user_ids)
def test_no_user_has_a_key_that_is_reserved(user_id: str) -> None:
    assert not user_id.encode().startswith(RESERVED_PREFIX)
    assert MARKER_KEY.startswith(RESERVED_PREFIX)
