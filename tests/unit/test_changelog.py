"""Whether a store and a changelog belong together, and what the marker says."""

import pytest
from hypothesis import given

from app.engine.changelog import LogState, StoreState, why_rebuild
from app.engine.marker import MARKER_KEY, RESERVED_PREFIX, Marker
from tests.strategies import user_ids

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


def test_a_marker_survives_its_encoding_and_remembers_all_topics() -> None:
    marker = MINE.after("other", 3).after("source", 9)
    assert Marker.decode(marker.encode()) == marker
    assert marker.next == {"source": 9, "other": 3}
    assert marker.log == MINE.log


def test_each_log_gets_a_name_of_its_own() -> None:
    assert Marker.first().log != Marker.first().log


@given(user_ids)
def test_no_user_has_a_key_that_is_reserved(user_id: str) -> None:
    assert not user_id.encode().startswith(RESERVED_PREFIX)
    assert MARKER_KEY.startswith(RESERVED_PREFIX)
