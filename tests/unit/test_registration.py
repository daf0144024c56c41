"""The decisions: pure, complete, and the same at every replay."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UnreadableRecordError
from app.keys import partition_of
from app.positions import Position
from app.records import Registration, encode, key_of, moment
from app.registration import (
    MOVED_FROM_HEADER,
    Decision,
    Sorted,
    decide,
    first_row,
    new_rows,
    read,
    sort,
)
from tests.strategies import Record, registrations

ADA = Registration(id="ada", name="Ada", email="ada@example.com")
PARTITIONS = 8


ROW = first_row(3, Record(None), ADA)


def test_a_free_id_is_registered_at_the_records_time_and_position() -> None:
    assert decide(None, ADA) is Decision.REGISTERED
    row = first_row(3, Record(encode(ADA), offset=9, timestamp=1_700_000_000_123), ADA)
    assert (row["id"], row["name"], row["email"]) == ("ada", "Ada", "ada@example.com")
    assert row["status"] == "registered"
    assert row["registered_at"] == row["updated_at"] == moment(1_700_000_000_123)
    assert (row["version"], row["position"]) == (1, Position(3, 9).token())


def test_the_same_registration_again_is_replayed() -> None:
    assert decide(ROW, ADA) is Decision.REPLAYED
    assert decide(ROW, {**ADA, "type": "registration"}) is Decision.REPLAYED


@pytest.mark.parametrize("change", [{"name": "Eve"}, {"email": "eve@example.com"}])
def test_other_data_under_a_taken_id_is_rejected(change: Any) -> None:
    assert decide(ROW, {**ADA, **change}) is Decision.ID_TAKEN


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (b"not json", "invalid-json"),
        (b"", "invalid-json"),
        (b"\xff\xfe", "invalid-json"),
        (b'{"id":"a"', "invalid-json"),
        (b"[]", "invalid-record"),
        (b"null", "invalid-record"),
        (b"7", "invalid-record"),
        (b"{}", "invalid-record"),
        (b'{"id":"ada","name":"Ada","email":"nonsense"}', "invalid-record"),
        (b'{"type":"update","id":"ada","name":"Ada L."}', "unknown-type"),
        (b'{"type":7,"id":"ada"}', "unknown-type"),
        (None, "no-value"),
    ],
)
def test_an_unreadable_value_has_a_cause(value: bytes | None, cause: str) -> None:
    with pytest.raises(UnreadableRecordError) as caught:
        read(value)
    assert caught.value.cause == cause


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_cause(value: bytes) -> None:
    # Any other error than this one fails the test.
    with contextlib.suppress(UnreadableRecordError):
        assert set(read(value)) >= {"id", "name", "email"}


@given(st.lists(registrations, max_size=20), st.integers(0, PARTITIONS - 1))
def test_sorting_keeps_every_record_once_and_in_order(
    batch: list[Registration], partition: int
) -> None:
    came = [Record(encode(r), offset) for offset, r in enumerate(batch)]
    by_kind = sort(partition, [*came, Record(b"?", len(came))], PARTITIONS)
    assert by_kind.keys == [key_of(r) for _, r in by_kind.here]
    assert all(partition_of(key_of(r), PARTITIONS) == partition for _, r in by_kind.here)
    assert all(partition_of(key_of(r), PARTITIONS) == home for _, r, home in by_kind.elsewhere)
    assert [a.offset for a, _ in by_kind.unreadable] == [len(came)]
    offsets = [[a.offset for a, *_ in part] for part in (by_kind.here, by_kind.elsewhere)]
    assert sorted(offsets[0] + offsets[1]) == list(range(len(came)))
    assert all(part == sorted(part) for part in offsets)


def test_a_moved_record_in_a_wrong_partition_is_not_sent_round_for_ever() -> None:
    wrong = (partition_of(key_of(ADA), PARTITIONS) + 1) % PARTITIONS
    arrival = Record(encode(ADA), headers=[(MOVED_FROM_HEADER, b"p")])
    (_, error), *rest = sort(wrong, [arrival], PARTITIONS).unreadable
    assert error.cause == "moved-twice"
    assert not rest


few_ids = st.builds(
    Registration,
    id=st.sampled_from(["a", "b", "c"]),
    name=st.sampled_from(["x", "y"]),
    email=st.just("e@example.com"),
)


def _batch(history: list[Registration], start: int = 0) -> Sorted:
    """Return registrations as a batch that was sorted, from an offset of the history on."""
    came = [(Record(encode(r), offset), r) for offset, r in enumerate(history)][start:]
    return Sorted(here=list(came), keys=[key_of(r) for _, r in came])


@given(st.lists(few_ids, max_size=30), st.data())
def test_any_cut_into_batches_and_any_replay_give_the_same_rows(
    history: list[Registration], data: st.DataObject
) -> None:
    whole = new_rows({}, 0, _batch(history))
    cut = data.draw(st.integers(0, len(history)))
    again = data.draw(st.integers(0, cut))
    rows = new_rows({}, 0, _batch(history[:cut]))
    more = new_rows(rows, 0, _batch(history, again))
    assert {**rows, **more} == whole


@given(st.lists(few_ids, min_size=1, max_size=30))
def test_the_first_registration_of_an_id_stands(history: list[Registration]) -> None:
    rows = new_rows({}, 0, _batch(history))
    assert set(rows) == {key_of(r) for r in history}
    for key, row in rows.items():
        first = next(r for r in history if key_of(r) == key)
        assert (row["name"], row["email"]) == (first["name"], first["email"])
