"""An owned partition: each record once and in order, whatever fails on the way."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from faust.types import TP

from app.arrivals import Arrival
from app.connection import Connection
from app.engine import partitions as engine
from app.engine.changelog import Advanced, Changelog, Recovered
from app.engine.folding import MAX_FOLD_RECORDS, Fold
from app.engine.lean import ToWrite
from app.engine.lease import Lease
from app.engine.marker import MARKER_KEY, Marker
from app.engine.pace import Pace
from app.engine.partitions import (
    MAX_BATCH_BYTES,
    Changes,
    Decide,
    FoldedTable,
    OwnedPartition,
    Surroundings,
)
from app.engine.transactions import Rows, Sendings
from app.errors import ApplyError, FencedError, NotWrittenError, StoreError
from app.records import Outgoing
from tests.strategies import Record

SOURCE = TP("source", 3)
VERDICTS = TP("verdicts", 3)


@dataclass
class FakeStore:
    """Rows in memory; fails when told to."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    at: int = -1
    failures: list[Exception] = field(default_factory=list)
    closed: bool = False

    def apply(self, partition: int, rows: Rows, changelog_offset: int) -> None:
        """Take rows."""
        if self.failures:
            raise self.failures.pop(0)
        self.rows |= rows
        self.at = changelog_offset

    def close(self, partitions: Iterable[int]) -> None:
        """Note it."""
        self.closed = True


@dataclass
class FakeLog:
    """The broker's side: what is committed, and how each commit shall fail."""

    store: FakeStore
    committed: list[Rows] = field(default_factory=list)
    outgoing: list[ToWrite] = field(default_factory=list)
    first: list[Outgoing] = field(default_factory=list)
    #: For each commit to come: an error, and whether the transaction is committed all the same.
    failures: list[tuple[BaseException, bool]] = field(default_factory=list)
    log_start: int = 0
    starts: int = 0
    held: asyncio.Event | None = None

    async def start(self) -> None:
        """Fence."""
        self.starts += 1

    async def close(self) -> None:
        """Disconnect."""

    async def send(self, records: Sequence[Outgoing]) -> list[int]:
        """Return offsets: from 100 on."""
        self.first.extend(records)
        return list(range(100, 100 + len(records)))

    async def commit(self, changelog: str, partition: int, rows: Rows, sendings: Sendings) -> int:
        """Commit, or fail as told."""
        await asyncio.sleep(0)
        if self.held is not None:
            await self.held.wait()
        error, written = self.failures.pop(0) if self.failures else (None, True)
        if written:
            self.committed.append(dict(rows))
            self.outgoing.extend(record for records in sendings.values() for record in records)
        if error is not None:
            raise error
        return len(self.committed) - 1

    async def recover(
        self, partition: int, sources: Iterable[str], advanced: Advanced
    ) -> Recovered:
        """Bring the store up to date."""
        for offset, rows in enumerate(self.committed[self.store.at + 1 :], self.store.at + 1):
            self.store.apply(partition, rows, offset)
        stored = self.store.rows.get(MARKER_KEY)
        marker = None if stored is None else Marker.decode(stored)
        return Recovered(marker, await self.log_starts(partition, sources))

    async def log_starts(self, partition: int, sources: Iterable[str]) -> dict[str, int]:
        """Return where the logs begin."""
        return dict.fromkeys(sources, self.log_start)


@dataclass
class World:
    """A partition and all that is around it."""

    store: FakeStore = field(default_factory=FakeStore)
    fenced: list[OwnedPartition] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    read_again: list[int] = field(default_factory=list)
    is_member: bool = True
    #: Whether a table that was sealed goes on here after all.
    stands: bool = False
    ends: dict[TP, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = FakeLog(self.store)
        self.lease = Lease()
        self.complete_at: dict[int, float] = {}
        self.partition = OwnedPartition(
            FoldedTable(
                "users",
                Connection("nowhere:1"),
                ("verdicts", "source"),
                cast(Changelog, self),
                cast(Any, self.store),
                "rules",
            ),
            3,
            Surroundings(
                app_id="app",
                turn=asyncio.Lock(),
                pace=Pace(),
                lease=self.lease,
                is_member=self._is_member,
                on_fenced=self.fenced.append,
                on_failure=self._fail,
                read_again=self._read_again,
                tidy=self._tidy,
                require_standing=self._require_standing,
                ends=self.ends,
            ),
        )
        self.partition._producer = cast(Any, self.log)
        self.topic = "changelog"
        self.recover = self.log.recover
        self.log_starts = self.log.log_starts

    def note_complete(self, partition: int, at: float) -> None:
        """Note what the real one would."""
        self.complete_at[partition] = at

    async def _is_member(self) -> bool:
        return self.is_member

    async def _require_standing(self) -> None:
        if not self.stands:
            raise NotWrittenError("the registry is being repartitioned")

    async def _fail(self, error: Exception) -> None:
        self.failures.append(error)

    async def _read_again(self, source: TP, offset: int) -> None:
        self.read_again.append(offset)

    def _tidy(self, partition: int, log_starts: Mapping[str, int], changes: Changes) -> None:
        changes.rows[b"tidied"] = b"%d" % log_starts["source"]

    def submit(self, start: int, end: int, decide: Decide | None = None) -> None:
        """Submit the records of some offsets, which all have a value of their own."""
        records = [Record(b"%d" % offset, offset) for offset in range(start, end)]
        self.partition.submit(Fold(SOURCE, start, end, records), decide or write_rows)

    def submit_verdict(self, offset: int) -> None:
        """Submit a record of the other source."""
        fold = Fold(VERDICTS, offset, offset + 1, [Record(b"verdict", offset)])
        self.partition.submit(fold, write_verdict)

    async def applied(self, end: int) -> None:
        """Wait until everything below an offset is applied."""
        async with asyncio.timeout(10):
            while self.partition.applied("source") < end:
                await asyncio.sleep(0)

    def order(self) -> list[int]:
        """Return the offsets whose rows were committed, in order."""
        return [int(k) for rows in self.log.committed for k in rows if k != MARKER_KEY]


def write_rows(partition: int, records: Sequence[Arrival], changes: Changes) -> None:
    """Write a row of each record, and tell of it."""
    assert partition == SOURCE.partition
    changes.rows.update((record.value or b"", b"row") for record in records)
    for record in records:
        changes.send(Outgoing("told", partition, record.value, None))
    changes.settled.extend(record.offset for record in records)


def write_verdict(partition: int, records: Sequence[Arrival], changes: Changes) -> None:
    """Write that there was a verdict."""
    changes.rows[b"verdict"] = b"row"


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Return a partition that is open."""
    monkeypatch.setattr(engine, "MAX_BACK_OFF_SECONDS", 0.01)
    made = World()
    await made.partition.open()
    made.partition.begin()
    yield made
    await made.partition.close()


async def test_folds_are_applied_in_order_each_with_its_marker(world: World) -> None:
    world.submit(0, 5)
    world.submit(5, 9)
    await world.applied(9)
    assert world.order() == list(range(9))
    markers = [Marker.decode(rows[MARKER_KEY] or b"").next for rows in world.log.committed]
    assert markers == [{"verdicts": 0, "source": 5}, {"verdicts": 0, "source": 9}]
    assert [list(rows)[-1] for rows in world.log.committed] == [MARKER_KEY] * 2
    assert world.store.at == 1


@pytest.mark.parametrize("written", [False, True])
async def test_a_commit_of_unknown_outcome_is_found_out_and_done_once(
    world: World, written: bool
) -> None:
    world.log.failures = [(NotWrittenError("?"), written), (NotWrittenError("?"), False)]
    world.submit(0, 3)
    world.submit(3, 6)
    await world.applied(6)
    assert world.order() == list(range(6))
    assert len(world.log.outgoing) == 6
    assert world.log.starts > 1


async def test_rows_that_are_committed_but_not_stored_come_from_the_changelog(
    world: World,
) -> None:
    world.store.failures = [StoreError("no space left"), StoreError("no space left")]
    world.submit(0, 3)
    await world.applied(3)
    assert world.order() == [0, 1, 2]
    assert set(world.store.rows) == {b"0", b"1", b"2", MARKER_KEY}


async def test_while_it_fails_its_rows_are_not_shown(world: World) -> None:
    world.is_member = False
    world.log.failures = [(NotWrittenError("?"), True)]
    world.submit(0, 3)
    async with asyncio.timeout(5):
        while world.partition.is_open:
            await asyncio.sleep(0)
    world.is_member = True
    await world.applied(3)
    assert world.partition.is_open


async def test_who_is_no_member_fences_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "GIVE_UP_AFTER_SECONDS", 0.05)
    world.is_member = False
    world.log.failures = [(NotWrittenError("?"), False)]
    world.submit(0, 3)
    async with asyncio.timeout(5):
        while not world.failures:
            await asyncio.sleep(0.001)
    assert world.log.starts == 1
    assert isinstance(world.failures[0], NotWrittenError)


async def test_fenced_means_revoked_nothing_more_is_written(world: World) -> None:
    world.log.failures = [(FencedError("another"), False)]
    world.submit(0, 3)
    world.submit(3, 6)
    async with asyncio.timeout(5):
        while not world.fenced:
            await asyncio.sleep(0)
    assert not world.partition.is_open
    assert (world.order(), world.log.starts, world.store.rows) == ([], 1, {})
    assert not world.failures


async def test_what_never_can_be_written_ends_the_worker_with_its_cause(world: World) -> None:
    world.log.failures = [(ApplyError("too large"), False)]
    world.submit(0, 3)
    async with asyncio.timeout(5):
        while not world.failures:
            await asyncio.sleep(0)
    assert str(world.failures[0]) == "too large"


async def test_a_missing_fold_is_read_again_and_nothing_is_skipped(world: World) -> None:
    world.submit(0, 3)
    world.submit(5, 7)
    async with asyncio.timeout(5):
        while not world.read_again:
            await asyncio.sleep(0)
    assert world.read_again == [3]
    world.submit(3, 7)
    await world.applied(7)
    assert world.order() == list(range(7))


async def test_a_fold_that_comes_twice_is_applied_once(world: World) -> None:
    world.submit(0, 5)
    world.submit(0, 5)
    world.submit(3, 8)
    await world.applied(8)
    assert world.order() == list(range(8))


async def test_control_records_move_the_position_and_write_nothing(world: World) -> None:
    world.partition.submit(Fold(SOURCE, 0, 2, []), write_rows)
    await world.applied(2)
    assert world.log.committed == []


async def test_a_large_fold_is_cut_into_batches(world: World) -> None:
    big = bytes(MAX_BATCH_BYTES // 4)
    records = [Record(b"%d " % offset + big, offset) for offset in range(10)]
    world.partition.submit(Fold(SOURCE, 0, 10, records), write_rows)
    world.submit(10, 10 + 2 * MAX_FOLD_RECORDS)
    await world.applied(10 + 2 * MAX_FOLD_RECORDS)
    sizes = [len(rows) - 1 for rows in world.log.committed]
    assert sizes[:4] == [3, 3, 3, 1]
    assert max(sizes) <= MAX_FOLD_RECORDS
    assert sum(sizes) == 10 + 2 * MAX_FOLD_RECORDS


async def test_a_settled_partition_finished_its_batch_and_dropped_the_rest(world: World) -> None:
    world.log.held = asyncio.Event()
    world.submit(0, 3)
    world.submit(3, 6)
    await asyncio.sleep(0)
    settling = asyncio.create_task(world.partition.settle())
    await asyncio.sleep(0)
    world.log.held.set()
    await settling
    assert world.order() == [0, 1, 2]
    world.submit(3, 6)
    assert world.partition.has_room("source")
    assert world.partition.is_open
    assert not world.partition.answers
    world.partition.begin()
    assert world.partition.answers


async def test_a_batch_that_does_not_end_is_cut_off_and_its_fate_looked_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.01)
    world.log.held = asyncio.Event()
    world.submit(0, 3)
    await asyncio.sleep(0.005)
    await world.partition.settle()
    assert not world.partition.is_open
    assert world.store.rows == {}


async def test_a_closed_partition_takes_nothing(world: World) -> None:
    await world.partition.close()
    assert world.store.closed
    world.submit(0, 3)
    await asyncio.sleep(0.01)
    assert world.order() == []


async def test_records_that_were_deleted_unapplied_stop_the_partition() -> None:
    world = World()
    world.store.rows = {
        MARKER_KEY: Marker(log="log", next={"source": 5, "verdicts": 9}, rules="rules").encode()
    }
    world.log.log_start = 8
    with pytest.raises(ApplyError, match="records from 5 to 7 were deleted"):
        await world.partition.open()


async def test_a_new_table_begins_where_its_source_begins() -> None:
    world = World()
    world.log.log_start = 8
    await world.partition.open()
    assert world.partition.applied("source") == 8


async def test_rows_under_other_rules_are_refused() -> None:
    world = World()
    world.store.rows = {MARKER_KEY: Marker(log="log", next={}, rules="another secret").encode()}
    with pytest.raises(ApplyError, match="another EMAIL_SECRET"):
        await world.partition.open()


async def test_a_record_that_halts_waits_until_the_other_source_has_gone_on(world: World) -> None:
    """What stands before it is applied, what stands behind it waits with it."""
    has_verdict = False

    def halt_at_two(partition: int, records: Sequence[Arrival], changes: Changes) -> None:
        nonlocal has_verdict
        has_verdict = b"verdict" in world.store.rows
        below = [record for record in records if record.offset < 2 or has_verdict]
        write_rows(partition, below, changes)
        if len(below) < len(records):
            changes.halted_at = 2

    world.submit(0, 4, halt_at_two)
    world.submit(4, 5)
    await world.applied(2)
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.partition.applied("source") == 2
    assert world.order() == [0, 1]
    world.submit_verdict(0)
    await world.applied(5)
    rows = [key for rows in world.log.committed for key in rows if key != MARKER_KEY]
    assert rows == [b"0", b"1", b"verdict", b"2", b"3", b"4"]


async def test_a_halted_source_takes_no_more_and_leaves_room_for_the_other(world: World) -> None:
    def halt(partition: int, records: Sequence[Arrival], changes: Changes) -> None:
        changes.halted_at = records[0].offset

    world.submit(0, 1, halt)
    world.submit(1, 2)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not world.partition.has_room("source")
    assert world.partition.has_room("verdicts")
    assert world.log.committed == []


async def test_records_that_are_sent_first_are_named_by_their_offsets(world: World) -> None:
    def move(partition: int, records: Sequence[Arrival], changes: Changes) -> None:
        def noted(offset: int) -> None:
            changes.rows[b"moved"] = b"%d" % offset

        changes.noted.append((Outgoing("elsewhere", 1, b"k", b"v"), noted))

    world.submit(0, 1, move)
    await world.applied(1)
    assert [record.topic for record in world.log.first] == ["elsewhere"]
    assert list(world.log.committed[0]) == [b"moved", MARKER_KEY]
    assert world.store.rows[b"moved"] == b"100"


async def test_who_waits_for_a_record_hears_when_its_rows_can_be_read(world: World) -> None:
    waiting = asyncio.create_task(world.partition.settled(3))
    world.submit(0, 3)
    await world.applied(3)
    assert not waiting.done()
    world.submit(3, 4)
    async with asyncio.timeout(5):
        await waiting
    assert b"3" in world.store.rows


async def test_who_waits_hears_that_the_partition_goes(world: World) -> None:
    waiting = asyncio.create_task(world.partition.settled(3))
    await asyncio.sleep(0)
    await world.partition.close()
    async with asyncio.timeout(5):
        await waiting
    assert not world.partition.answers


async def test_who_gives_up_waiting_leaves_nothing(world: World) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await world.partition.settled(3)
    assert world.partition._waiters == {}


async def test_caught_up_means_that_what_is_committed_is_in_the_store(world: World) -> None:
    world.log.held = asyncio.Event()
    world.submit(0, 1)
    await asyncio.sleep(0)
    waiting = asyncio.create_task(world.partition.caught_up())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    world.log.held.set()
    await waiting
    assert b"0" in world.store.rows


async def test_a_partition_is_tidied_between_two_transactions(world: World) -> None:
    world.log.log_start = 7
    world.partition.tidy()
    async with asyncio.timeout(5):
        while b"tidied" not in world.store.rows:
            await asyncio.sleep(0)
    assert world.store.rows[b"tidied"] == b"7"
    assert MARKER_KEY in world.log.committed[-1]
    world.submit(0, 1)
    await world.applied(1)
    assert sum(b"tidied" in rows for rows in world.log.committed) == 1


async def test_while_the_lease_holds_the_store_is_complete(world: World) -> None:
    world.lease.renew(7.0)
    assert world.partition.complete_at == 7.0
    world.lease.renew(9.0)
    await world.partition.settle()
    world.lease.renew(20.0)
    assert world.partition.complete_at == 9.0


async def test_what_may_be_committed_unseen_is_not_called_complete(world: World) -> None:
    world.lease.renew(7.0)
    world.log.failures.append((NotWrittenError("no answer"), True))
    world.is_member = False
    world.submit(0, 5)
    async with asyncio.timeout(10):
        while world.partition.answers:
            await asyncio.sleep(0)
    world.lease.renew(20.0)
    assert world.partition.complete_at == 7.0


async def test_a_source_that_ends_for_now_is_applied_up_to_there_and_later_further(
    world: World,
) -> None:
    world.ends[SOURCE] = 5
    world.submit(0, 3)
    world.submit(3, 8)
    await world.applied(5)
    world.submit_verdict(0)
    async with asyncio.timeout(10):
        while not world.partition.applied("verdicts"):
            await asyncio.sleep(0)
    assert world.partition.applied("source") == 5
    world.ends.clear()
    world.partition.go_on()
    await world.applied(8)
    written = [key for rows in world.log.committed for key in rows if key != MARKER_KEY]
    assert [key for key in written if key.isdigit()] == [b"%d" % n for n in range(8)]


async def test_a_sealed_table_goes_on_only_where_it_stands_and_without_the_seal() -> None:
    sealed = World()
    marker = Marker.first("rules").after("source", 4).after("verdicts", 0)
    sealed.log.committed.append({MARKER_KEY: marker.sealed().encode()})
    with pytest.raises(NotWrittenError, match="repartitioned"):
        await sealed.partition.open()
    assert not sealed.partition.is_open
    sealed.stands = True
    await sealed.partition.open()
    sealed.partition.begin()
    sealed.submit(4, 6)
    await sealed.applied(6)
    again = Marker.decode(sealed.log.committed[-1][MARKER_KEY] or b"")
    assert (again.is_sealed, again.log, again.next["source"]) == (False, marker.log, 6)
    await sealed.partition.close()


def test_a_marker_without_a_seal_is_written_as_ever() -> None:
    marker = Marker(log="log", next={"source": 1}, rules="rules")
    assert marker.encode() == b'{"log":"log","next":{"source":1},"rules":"rules"}'
