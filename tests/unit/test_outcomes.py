"""Outcomes: in words, and one byte each in pages among the rows of users."""

from collections.abc import Iterable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.outcomes import Decided, Outcome
from app.engine.marker import PAGE_RECORDS, RESERVED_PREFIX, move_key
from app.kafka.transactions import Rows
from app.web.outcomes import REJECTIONS
from tables.outcomes import RecordOutcomes
from tables.store import PartitionedStore

WORDS = {
    Outcome.PENDING: (1, "pending", None),
    Outcome.REGISTERED: (2, "registered", None),
    Outcome.REPLAYED: (3, "replayed", None),
    Outcome.ID_TAKEN: (4, "rejected", "id-taken"),
    Outcome.EMAIL_TAKEN: (5, "rejected", "email-taken"),
    Outcome.UNKNOWN_ID: (6, "rejected", "unknown-id"),
    Outcome.UPDATED: (7, "updated", None),
    Outcome.ERASED: (8, "erased", None),
    Outcome.MOVED: (9, "moved", None),
    Outcome.DEAD_LETTER: (10, "dead-letter", None),
    Outcome.TOO_MANY_PENDING: (11, "rejected", "too-many-pending"),
    Outcome.VERSION_MISMATCH: (12, "rejected", "version-mismatch"),
}


class FakeStore:
    """Rows in memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, bytes], bytes] = {}
        self.reads = 0

    def read(self, partition: int, key: bytes) -> bytes | None:
        """Return the row under a key of a partition, or None."""
        self.reads += 1
        return self.rows.get((partition, key))

    def keys_between(self, partition: int, first: bytes, end: bytes, limit: int) -> list[bytes]:
        """Return the first keys of a range, in order."""
        ours = sorted(key for number, key in self.rows if number == partition)
        return [key for key in ours if first <= key < end][:limit]

    def apply(self, partition: int, rows: Rows) -> None:
        """Write rows; None deletes."""
        for key, row in rows.items():
            if row is None:
                self.rows.pop((partition, key), None)
            else:
                self.rows[partition, key] = row


def test_every_rejection_is_told_over_http_and_on_pages() -> None:
    assert set(REJECTIONS) == {outcome for outcome in Outcome if outcome.reason is not None}


@pytest.fixture
def store() -> FakeStore:
    """Return an empty store."""
    return FakeStore()


@pytest.fixture
def outcomes(store: FakeStore) -> RecordOutcomes:
    """Return the outcomes in the store."""
    return _outcomes_in(store)


def _outcomes_in(store: FakeStore) -> RecordOutcomes:
    return RecordOutcomes(cast(PartitionedStore, store))


def _decided(*outcomes: tuple[int, Outcome]) -> list[Decided]:
    return [Decided(offset, "ada", outcome) for offset, outcome in outcomes]


# -- in words


@pytest.mark.parametrize("outcome", Outcome)
def test_numbers_and_words_are_frozen(outcome: Outcome) -> None:
    assert (int(outcome), outcome.word, outcome.reason) == WORDS[outcome]
    assert Outcome.from_words(outcome.word, outcome.reason) is outcome


def test_words_that_are_none_are_refused() -> None:
    with pytest.raises(KeyError):
        Outcome.from_words("registered?", None)


def test_every_outcome_but_pending_is_the_last_of_its_record() -> None:
    assert [outcome for outcome in Outcome if not outcome.is_terminal] == [Outcome.PENDING]


def test_an_outcome_is_one_byte_and_never_that_of_an_empty_place() -> None:
    assert all(0 < outcome < 256 for outcome in Outcome)


# -- in pages


def test_an_outcome_is_found_where_it_was_written(
    store: FakeStore, outcomes: RecordOutcomes
) -> None:
    store.apply(3, outcomes.with_new(3, _decided((7, Outcome.ERASED)), {}))
    assert outcomes.find(3, 7) is Outcome.ERASED
    assert outcomes.find(3, 6) is None
    assert outcomes.find(3, 7 + PAGE_RECORDS) is None
    assert outcomes.find(4, 7) is None


def test_neighbours_share_a_page_and_those_of_before_stay(
    store: FakeStore, outcomes: RecordOutcomes
) -> None:
    last = PAGE_RECORDS - 1
    store.apply(0, outcomes.with_new(0, _decided((0, Outcome.MOVED)), {}))
    changed = outcomes.with_new(
        0, _decided((last, Outcome.UPDATED), (last + 1, Outcome.PENDING)), {}
    )
    assert [len(page) for page in changed.values()] == [PAGE_RECORDS, PAGE_RECORDS]
    store.apply(0, changed)
    assert outcomes.find(0, 0) is Outcome.MOVED
    assert outcomes.find(0, last) is Outcome.UPDATED
    assert outcomes.find(0, last + 1) is Outcome.PENDING


def test_a_later_outcome_of_a_record_replaces_an_earlier(
    store: FakeStore, outcomes: RecordOutcomes
) -> None:
    store.apply(0, outcomes.with_new(0, _decided((5, Outcome.PENDING)), {}))
    settled = _decided((5, Outcome.PENDING), (5, Outcome.REGISTERED))
    store.apply(0, outcomes.with_new(0, settled, {}))
    assert outcomes.find(0, 5) is Outcome.REGISTERED


def test_pages_that_are_not_in_the_store_yet_count(
    store: FakeStore, outcomes: RecordOutcomes
) -> None:
    store.apply(0, outcomes.with_new(0, _decided((1, Outcome.MOVED)), {}))
    pending = dict(outcomes.with_new(0, _decided((2, Outcome.ERASED)), {}))
    pending.update(outcomes.with_new(0, _decided((3, Outcome.UPDATED)), pending))
    assert outcomes.find(0, 2) is None
    store.apply(0, pending)
    found = [outcomes.find(0, offset) for offset in (1, 2, 3)]
    assert found == [Outcome.MOVED, Outcome.ERASED, Outcome.UPDATED]


def test_a_page_is_read_once_for_a_whole_batch(store: FakeStore, outcomes: RecordOutcomes) -> None:
    batch = _decided(*[(offset, Outcome.PENDING) for offset in range(2 * PAGE_RECORDS)])
    outcomes.with_new(0, batch, {})
    assert store.reads == 2


def test_no_outcomes_change_no_page(outcomes: RecordOutcomes) -> None:
    assert outcomes.with_new(0, [], {}) == {}


batches = st.lists(
    st.lists(
        st.builds(
            Decided, st.integers(0, 3 * PAGE_RECORDS), st.just("ada"), st.sampled_from(Outcome)
        ),
        max_size=20,
    ),
    max_size=5,
)


@given(batches, st.booleans())
def test_pages_hold_the_last_outcome_of_each_record(
    decided: list[list[Decided]], at_once: bool
) -> None:
    store = FakeStore()
    outcomes = _outcomes_in(store)
    pending: dict[bytes, bytes | None] = {}
    for batch in decided:
        pending.update(outcomes.with_new(0, batch, pending))
        if not at_once:
            store.apply(0, pending)
            pending.clear()
    store.apply(0, pending)
    last = {offset: outcome for batch in decided for offset, _, outcome in batch}
    offsets = range(3 * PAGE_RECORDS + 1)
    assert {
        offset: outcome for offset in offsets if (outcome := outcomes.find(0, offset)) is not None
    } == last


def test_no_page_can_be_taken_for_a_user(outcomes: RecordOutcomes) -> None:
    keys = [*outcomes.with_new(0, _decided((2**40, Outcome.MOVED)), {}), move_key(2**40)]
    assert all(key.startswith(RESERVED_PREFIX) for key in keys)


# -- moved records


def test_where_a_record_was_moved_is_told(store: FakeStore, outcomes: RecordOutcomes) -> None:
    store.apply(0, {move_key(7): b"there"})
    assert outcomes.moved_to(0, 7) == "there"
    assert outcomes.moved_to(0, 8) is None
    assert outcomes.moved_to(1, 7) is None


# -- what nobody can ask for any more


def _written(store: FakeStore, offsets: Iterable[int]) -> None:
    outcomes = _outcomes_in(store)
    store.apply(0, {b"ada": b"a user", RESERVED_PREFIX + b"zzz": b"another row of ours"})
    for offset in offsets:
        store.apply(0, outcomes.with_new(0, _decided((offset, Outcome.MOVED)), {}))
        store.apply(0, {move_key(offset): b"there"})


@pytest.mark.parametrize("start", [0, 1, 255, 256, 257, 511, 512, 70_000, 70_001])
def test_what_tells_only_of_records_that_are_gone_is_superfluous(
    store: FakeStore, outcomes: RecordOutcomes, start: int
) -> None:
    offsets = [0, 1, 255, 256, 300, 511, 512, 70_000]
    _written(store, offsets)
    store.apply(0, dict.fromkeys(outcomes.superfluous(0, start)))
    kept = [offset for offset in offsets if outcomes.find(0, offset) is not None]
    # A page goes when the last of its records has gone.
    assert kept == [o for o in offsets if o // PAGE_RECORDS >= start // PAGE_RECORDS]
    moves = [offset for offset in offsets if outcomes.moved_to(0, offset) is not None]
    assert moves == [offset for offset in offsets if offset >= start]
    assert store.read(0, b"ada") is not None
    assert store.read(0, RESERVED_PREFIX + b"zzz") is not None


def test_a_transaction_removes_a_limited_number_of_pages(
    store: FakeStore, outcomes: RecordOutcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tables.outcomes._MAX_REMOVED", 2)
    _written(store, [0, 256, 512, 768])
    assert len(list(outcomes.superfluous(0, 10_000))) == 4
    store.apply(0, dict.fromkeys(outcomes.superfluous(0, 10_000)))
    assert outcomes.find(0, 0) is None
    assert outcomes.find(0, 768) is Outcome.MOVED
