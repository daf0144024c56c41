"""More partitions, without a broker: where rows go, and that nothing differs afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.support.simulation
from app.domain.errors import TopicsError
from app.domain.keys import partition_of
from app.engine.marker import (
    LETTERS_PREFIX,
    MARKER_KEY,
    MOVES_PREFIX,
    OUTCOMES_PREFIX,
    RECENT_KEY,
    RESERVED_PREFIX,
)
from app.kafka.partitioning import Partitioning
from app.ops.repartition.target_partitions import children, recent_of, rows_by_target, why_not
from app.ops.verify.findings import CLEAN, DIFFERENCES, PARTIAL, Difference
from app.ops.verify.splits import parent, pieces
from tests.support.simulation import (
    CHANGELOGS,
    DECIDING,
    PARTITIONS,
    SOURCES,
    Log,
    Simulation,
    topics,
)
from tests.unit.test_verify import assert_status, verified

BEFORE = 2
FIRST = Partitioning(partitions=BEFORE)

keys = st.text(min_size=1, max_size=20).map(str.encode)


# -- where rows go


@given(st.lists(keys, unique=True), st.integers(1, 6), st.integers(2, 5))
def test_each_row_goes_where_its_key_belongs(some: list[bytes], before: int, times: int) -> None:
    after = before * times
    for number in range(before):
        rows: dict[bytes, bytes | None] = {
            key: key for key in some if partition_of(key, before) == number
        }
        by_target = rows_by_target(number, rows, before, after)
        assert {key for target in by_target.values() for key, _ in target} == rows.keys()
        assert by_target.keys() <= set(children(number, before, after))
        assert all(
            partition_of(k, after) == target for target, of in by_target.items() for k, _ in of
        )


def test_what_speaks_of_offsets_stays_and_what_speaks_of_ids_goes_with_them() -> None:
    user_id = next(i for i in map(str, range(99)) if partition_of(i.encode(), 4) == 3)
    rows = {
        OUTCOMES_PREFIX + bytes(8): b"page",
        MOVES_PREFIX + bytes(8): b"position",
        LETTERS_PREFIX + user_id.encode(): b"letters",
        MARKER_KEY: b"{}",
        RECENT_KEY: b"[]",
    }
    by_target = rows_by_target(1, rows, 2, 4)
    assert {target: sorted(row or b"" for _, row in of) for target, of in by_target.items()} == {
        1: [b"page", b"position"],
        3: [b"letters"],
    }


def test_a_row_that_nobody_knows_is_not_copied_anywhere() -> None:
    with pytest.raises(TopicsError, match="newer version"):
        rows_by_target(0, {RESERVED_PREFIX + b"unheard of": b""}, 1, 2)


def test_a_row_in_a_wrong_partition_ends_it() -> None:
    stray = next(i.encode() for i in map(str, range(99)) if partition_of(i.encode(), 2) == 1)
    with pytest.raises(TopicsError, match="wrong partition"):
        rows_by_target(0, {stray: b"row"}, 2, 4)


def test_who_came_last_goes_with_the_users_and_erased_ones_keep_their_time_everywhere() -> None:
    ids = {
        target: next(i for i in map(str, range(99)) if partition_of(i.encode(), 2) == target)
        for target in (0, 1)
    }
    recent = orjson.dumps([("3", ids[0]), ("2", ""), ("1", ids[1])])
    assert orjson.loads(recent_of(0, recent, 2)) == [["3", ids[0]], ["2", ""]]
    assert orjson.loads(recent_of(1, recent, 2)) == [["2", ""], ["1", ids[1]]]


@pytest.mark.parametrize(("before", "after"), [(4, 4), (4, 2), (4, 6), (8, 20)])
def test_only_multiples_are_possible(before: int, after: int) -> None:
    assert why_not(before, after) is not None
    assert why_not(before, 4 * before) is None


# -- what verify makes of it


def test_a_partition_has_a_piece_for_each_number_of_partitions() -> None:
    once = FIRST.split(4, {"t": [10, 20]})
    twice = once.split(8, {"t": [11, 21, 5, 6]})
    assert [(p.until, p.partitions) for p in pieces(twice, "t", 1)][:2] == [(20, 2), (21, 4)]
    assert [p.partitions for p in pieces(twice, "t", 3)] == [4, 8]
    assert [p.partitions for p in pieces(twice, "t", 7)] == [8]
    assert [parent(twice, n) for n in range(8)] == [None, None, 0, 1, 0, 1, 2, 3]


@contextmanager
def of_few_partitions(partitions: int) -> Iterator[None]:
    """Let everything be decided for fewer partitions than there will be."""
    fewer = {
        f.name: replace(getattr(topics, f.name), partitions=partitions) for f in fields(topics)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tests.support.simulation, "DECIDING", replace(DECIDING, topics=replace(topics, **fewer))
        )
        patch.setattr(tests.support.simulation, "PARTITIONS", partitions)
        yield


def split(simulation: Simulation, now: Partitioning, after: int) -> Partitioning:
    """Split a registry in which nothing is in flight, as the command does."""
    ends: dict[str, list[int]] = {
        source: [simulation.logs[source, n].end for n in range(now.partitions)]
        for source in SOURCES
    }
    for table, changelog in CHANGELOGS.items():
        for number in range(now.partitions):
            _split_table(simulation, table, number, now.partitions, after)
        for number in range(after):
            rows = simulation.tables[table][number]
            simulation.logs[changelog, number] = Log()
            marker = simulation.markers[table, number]
            simulation._write_rows(table, number, {**rows, MARKER_KEY: marker.encode()})
    simulation.open()
    return now.split(after, ends)


def _split_table(sim: Simulation, table: str, number: int, before: int, after: int) -> None:
    rows: dict[bytes, bytes | None] = dict(sim.tables[table][number])
    recent = sim.tables[table][number].pop(RECENT_KEY, None)
    sim.tables[table][number].clear()
    for target, some in rows_by_target(number, rows, before, after).items():
        sim.tables[table][target].update((key, row) for key, row in some if row is not None)
    for target in children(number, before, after) if recent is not None else ():
        sim.tables[table][target][RECENT_KEY] = recent_of(target, recent or b"", after)


def split_registry(patch: pytest.MonkeyPatch, seed: int) -> tuple[Simulation, Partitioning]:
    """Return a registry that was split twice, and has worked between and since."""
    simulation, now = Simulation(patch, Random(seed)), FIRST
    for partitions in (BEFORE, 2 * BEFORE):
        with of_few_partitions(partitions):
            simulation.arrive_many(120, ids=30, addresses=20)
            simulation.run()
        now = split(simulation, now, PARTITIONS if partitions > BEFORE else 2 * BEFORE)
    simulation.arrive_many(120, ids=30, addresses=20)
    simulation.run()
    return simulation, now


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_split_is_clean(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation, now = split_registry(monkeypatch, seed)
    assert_status(await verified(simulation, now=now), CLEAN)


async def test_who_does_not_know_of_the_split_sees_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation, _ = split_registry(monkeypatch, 1)
    assert_status(await verified(simulation), DIFFERENCES)


@pytest.mark.parametrize("table", ["users", "emails"])
async def test_a_row_that_was_not_copied_is_missed(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation, now = split_registry(monkeypatch, 2)
    number, key = next(
        (n, key)
        for n in range(BEFORE, PARTITIONS)
        for key in sorted(simulation.tables[table][n])
        if not key.startswith(RESERVED_PREFIX)
    )
    simulation._write_rows(table, number, {key: None})
    findings = await verified(simulation, now=now)
    missing = Difference.MISSING_ROW if table == "users" else Difference.MISSING_HOLDER
    assert findings.counts[missing] == 1


async def test_a_row_that_was_left_behind_is_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation, now = split_registry(monkeypatch, 3)
    rows = simulation.tables["users"]
    key = next(key for key in sorted(rows[BEFORE]) if not key.startswith(RESERVED_PREFIX))
    simulation._write_rows("users", 0, {key: rows[BEFORE][key]})
    findings = await verified(simulation, now=now)
    assert findings.counts[Difference.EXTRA_ROW] == 1


@pytest.mark.parametrize("seed", range(4))
async def test_what_began_before_the_logs_do_is_partial_and_no_difference(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation, now = split_registry(monkeypatch, seed)
    for source, table in SOURCES.items():
        log = simulation.logs[source, 0]
        log.remove_below(min(20, simulation.markers[table, 0].next[source]))
    assert_status(await verified(simulation, now=now), PARTIAL)
