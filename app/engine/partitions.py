"""The owned partitions: what they have applied, and which requests wait for a record.

A partition is opened (its store is brought up to the end of the changelog, and the marker says what
is applied), then written by cycles (`app.engine.cycles`), then closed when it is lost.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from faust.types import TP

from app.config.connection import Connection
from app.domain.errors import ApplyError, LostChangelogError, NotWrittenError
from app.domain.records import Outgoing
from app.engine.changelog import Advanced, Changelog, Reading, StoresRows
from app.engine.lease import Lease
from app.engine.marker import MARKER_KEY, Marker, is_of_0_8, why_refused
from app.kafka.fast_records import ToWrite
from app.kafka.fetching import diverged, diverges_at, recreated, require_within
from app.kafka.transactions import FencedProducer, Rows, to_write

#: Called with the offset of a written record, before the transaction continues.
Noted = Callable[[int], None]


@dataclass(slots=True)
class Changes:
    """The results of records: rows of the table (None deletes) and records for other topics."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    outgoing: defaultdict[tuple[str, int], list[ToWrite]] = field(
        default_factory=lambda: defaultdict(list)
    )
    #: Partitions that will also be written, if the sent records are applied in the same
    #: transaction.
    likely: set[TP] = field(default_factory=set)
    #: Records that are sent first, because other records of the transaction contain their offsets.
    noted: list[tuple[Outgoing, Noted]] = field(default_factory=list)
    #: Offsets of source records that have their final outcome.
    settled: list[int] = field(default_factory=list)
    #: Called once the transaction is committed.
    on_commit: list[Callable[[], None]] = field(default_factory=list)

    def send(self, record: Outgoing) -> None:
        """Add a record for another topic."""
        self.outgoing[record.topic, record.partition].append(to_write(record))


#: A table's name and the number of one of its partitions.
Key = tuple[str, int]

#: Adds the removal of superfluous rows of a partition to changes, given where its sources begin.
Tidy = Callable[[int, Mapping[str, int], Changes], None]
#: Reads what a partition needs before it is used.
Prepare = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class AppliedTable:
    """A table that transactions write, and the topics whose records they apply."""

    name: str
    #: In the order in which a cycle applies them.
    sources: tuple[str, ...]
    changelog: Changelog
    store: StoresRows
    #: The rules under which its rows are decided. Rows of other rules are refused.
    rules: str = ""


async def never_sealed() -> None:
    """Do nothing: this table has no seal."""


async def prepared(_: Key) -> None:
    """Do nothing: the rows are all that a partition needs."""


async def not_read_again(_: TP) -> None:
    """Do nothing: records that were applied before are applied again like all others."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a partition needs of the worker to be opened."""

    app_id: str
    connection: Connection
    reading: Reading
    #: Raises `NotWrittenError` until it is certain that a sealed table continues here.
    require_current: Callable[[], Awaitable[None]] = never_sealed
    #: Called before a source is applied from records that may have been applied before.
    read_again: Callable[[TP], Awaitable[None]] = not_read_again
    #: Called when a partition's rows are there, before it is used.
    prepare: Callable[[Key], Awaitable[None]] = prepared


class OwnedPartition:
    """One partition of a table and its sources."""

    def __init__(self, table: AppliedTable, number: int, lease: Lease) -> None:
        self.table = table
        self.number = number
        self._lease = lease
        self._marker = Marker.first(table.rules)
        self._is_open = False
        #: Whether records may be applied and lookups answered, because no rebalance is under way.
        self._is_begun = False
        #: Held while a transaction writes this partition.
        self._applying = asyncio.Lock()
        self._waiters: defaultdict[int, list[asyncio.Future[None]]] = defaultdict(list)
        #: Why the last attempt failed; None if it did not.
        self.trouble: str | None = None

    # -- what others ask

    @property
    def key(self) -> Key:
        """The table's name and the number."""
        return self.table.name, self.number

    @property
    def changelog(self) -> TP:
        """The partition of the changelog."""
        return TP(self.table.changelog.topic, self.number)

    @property
    def marker(self) -> Marker:
        """What is applied."""
        return self._marker

    @property
    def is_open(self) -> bool:
        """Whether the store holds everything up to the marker."""
        return self._is_open

    @property
    def answers(self) -> bool:
        """Whether lookups may be answered: the partition is open, and no rebalance is under way."""
        return self._is_open and self._is_begun

    @property
    def complete_at(self) -> float | None:
        """When the store last held all committed rows, by `clocks.now`; None if never."""
        if self.answers:
            self._note_complete()
        return self.table.changelog.complete_at.get(self.number)

    def _note_complete(self) -> None:
        # While the lease was valid, no other worker could write.
        self.table.changelog.note_complete(self.number, self._lease.confirmed_at)

    def applied(self, topic: str) -> int:
        """Return the next offset to apply of a source topic; 0 if none was applied yet."""
        return self._marker.next.get(topic, 0)

    def knows(self, topic: str) -> bool:
        """Return whether it is known what is applied of a source topic."""
        return topic in self._marker.next

    def sources(self) -> Iterator[TP]:
        """Yield the partitions whose records are applied here."""
        return (TP(topic, self.number) for topic in self.table.sources)

    def offsets(self, marker: Marker) -> Iterator[tuple[TP, int]]:
        """Yield the next offset of every source in a marker."""
        return ((tp, marker.next.get(tp.topic, 0)) for tp in self.sources())

    # -- its life

    async def open(self, opening: Opening, advanced: Advanced = lambda rows, left: None) -> None:
        """Bring the store up to date, and read the marker.

        A sealed table continues only if the repartition that sealed it was given up. Raises
        `LostRecordsError` if records that are not applied yet are gone from their log.
        """
        recover = self.table.changelog.recover
        sources = self.table.sources
        marker = await recover(opening.reading, self.number, sources, advanced)
        if marker is not None and is_of_0_8(marker.rules, self.table.rules):
            marker = await self._take_over_from_0_8(opening, advanced)
        if marker is None:
            await self._require_new(opening)
            marker = Marker.first(self.table.rules)
        if marker.is_sealed:
            await opening.require_current()
            marker = marker.sealed(is_sealed=False)
        if (why := why_refused(marker.rules, self.table.rules)) is not None:
            raise ApplyError(f"the table {self.table.name} {why}; see docs/operations.md")
        self._marker = await self._within_logs(opening, marker)
        for tp in self.sources():
            if self._marker.reads_again(tp.topic):
                await opening.read_again(tp)
        await opening.prepare(self.key)
        self._is_open = True
        self.wake_all()

    async def _require_new(self, opening: Opening) -> None:
        """Raise `LostChangelogError` if the changelog is empty, but the registry is not new.

        The group remembers what was applied until a week after its last member left.
        """
        committed = await opening.reading.barrier.committed(list(self.sources()))
        if committed is None:
            raise NotWrittenError("offsets of the sources are pending again")
        for tp, offset in committed.items():
            if offset > 0:
                raise LostChangelogError(
                    f"{self.changelog.topic}, partition {self.number}: the changelog is empty, and "
                    f"{tp.topic} was applied up to {offset}: the changelog was deleted; see "
                    "docs/operations.md"
                )

    async def _take_over_from_0_8(self, opening: Opening, advanced: Advanced) -> Marker:
        """Write the first marker of this version, under the id by which version 0.8 fences owners.

        After that, a worker of 0.8 can write nothing more, and it refuses the unknown rules.
        """
        name, number = self.key
        changelog = self.table.changelog
        producer = FencedProducer(
            opening.connection,
            f"{opening.app_id}-{name}-{number}",
            [changelog.topic, *self.table.sources],
        )
        try:
            await producer.start()
            marker = await changelog.recover(opening.reading, number, self.table.sources, advanced)
            marker = (marker or Marker.first()).under(self.table.rules, {})
            rows: Rows = {MARKER_KEY: marker.encode()}
            offset = await producer.commit(changelog.topic, number, rows)
            self.table.store.apply(number, rows, offset)
            return marker
        finally:
            await producer.close()

    async def _within_logs(self, opening: Opening, marker: Marker) -> Marker:
        """Return the marker for the present sources; raise if they do not continue it."""
        cluster = opening.reading.cluster
        sources = list(self.sources())
        await cluster.refresh()
        begins, ends = await cluster.starts(sources), await cluster.ends(sources)
        ids = {topic: short_id(cluster.topic_id(topic)) for topic in self.table.sources}
        for tp in sources:
            if marker.ids.get(tp.topic, ids[tp.topic]) != ids[tp.topic]:
                raise recreated(tp, marker.next.get(tp.topic, 0))
            # Never reset a position: an operator must decide about records that are gone and not
            # applied.
            if tp.topic in marker.next:
                require_within(tp, marker.next[tp.topic], begins[tp], ends[tp])
            else:
                marker = marker.beginning(tp.topic, begins[tp], ends[tp])
            if tp.topic in marker.read:
                # The next records were applied as they were sent, so the next fetch cannot tell a
                # lost end.
                end = await diverges_at(cluster, tp, *marker.last_read(tp.topic))
                if end is not None:
                    raise diverged(tp, marker.next[tp.topic], end)
        return marker.under(self.table.rules, ids)

    def begin(self) -> None:
        """Let records be applied and lookups be answered."""
        self._is_begun = True

    def pause(self) -> None:
        """Stop applying and answering: a rebalance may move the partition."""
        if self.answers:
            self._note_complete()
        self._is_begun = False
        self.wake_all()

    def distrust(self) -> None:
        """Treat the store as uncertain: the partition must be opened again."""
        if self.answers:
            self._note_complete()
        self._is_open = False

    def close(self) -> None:
        """Release the store and the changelog."""
        self.pause()
        self._is_open = False
        self.table.store.close([self.number])

    # -- being written

    @property
    def applying(self) -> asyncio.Lock:
        """Held while a transaction writes this partition."""
        return self._applying

    def move_on(self, marker: Marker) -> None:
        """Note that only control records were passed.

        The next transaction commits the new offset.
        """
        self._marker = marker

    def apply(self, changes: Changes, marker: Marker, changelog_offset: int) -> None:
        """Write committed changes to the store; raise `StoreError` if that fails."""
        self.table.store.apply(self.number, changes.rows, changelog_offset)
        self._marker = marker
        self.trouble = None
        self._wake(self._waiters.keys() & changes.settled)

    # -- waiting

    async def caught_up(self) -> None:
        """Wait until the store has everything that is committed.

        A commit comes before the store's write.
        """
        async with self._applying:
            pass

    async def settled(self, offset: int) -> None:
        """Wait until a source record has its outcome, or until waiters should look again."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[offset].append(waiter)
        try:
            await waiter
        finally:
            waiters = self._waiters[offset]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[offset]

    def wake_all(self) -> None:
        """Let all waiters look again."""
        self._wake(list(self._waiters))

    def _wake(self, offsets: Iterable[int]) -> None:
        for offset in offsets:
            for waiter in self._waiters.get(offset, ()):
                if not waiter.done():
                    waiter.set_result(None)


def short_id(topic_id: bytes) -> str:
    """Return a short form of a topic's id, which differs between topics of the same name."""
    return topic_id[:6].hex()


class Partitions:
    """The partitions that this worker owns, by table and number."""

    def __init__(self, lease: Lease | None = None) -> None:
        self.lease = lease or Lease()
        self._tables: dict[str, AppliedTable] = {}
        self._by_source: dict[str, str] = {}
        self._tidy: dict[str, Tidy] = {}
        self._prepare: dict[str, Prepare] = {}
        self._owned: dict[Key, OwnedPartition] = {}
        #: Where sources end while the registry is repartitioned.
        self.ends: dict[TP, int] = {}
        #: Called when the ends of sources change.
        self.on_new_ends: Callable[[], None] = lambda: None
        #: The partitions that this worker follows as a standby, by table.
        self.standbys: dict[str, Sequence[int]] = {}

    # -- declaration

    def add(self, table: AppliedTable) -> None:
        """Add a table that transactions write, with its source topics."""
        self._tables[table.name] = table
        self._by_source.update(dict.fromkeys(table.sources, table.name))

    def keep_tidy(self, table: str, tidy: Tidy) -> None:
        """Set what removes superfluous rows of a table."""
        self._tidy[table] = tidy

    def prepare_by(self, table: str, prepare: Prepare) -> None:
        """Set what a partition of a table needs, once its rows are there, to be used."""
        self._prepare[table] = prepare

    async def prepare(self, key: Key) -> None:
        """Prepare a partition whose rows are there."""
        table, number = key
        if (prepare := self._prepare.get(table)) is not None:
            await prepare(number)

    def tidy_of(self, table: str) -> Tidy:
        """Return what removes superfluous rows of a table."""
        return self._tidy.get(table, lambda partition, log_starts, changes: None)

    @property
    def tables(self) -> Mapping[str, AppliedTable]:
        """The tables, by name."""
        return self._tables

    @property
    def sources(self) -> Sequence[str]:
        """The source topics, in the order in which a cycle applies them."""
        return [topic for table in self._tables.values() for topic in table.sources]

    # -- ownership

    def get(self, table: str, number: int) -> OwnedPartition | None:
        """Return an owned partition, or None."""
        return self._owned.get((table, number))

    def at(self, source: TP) -> OwnedPartition | None:
        """Return the owned partition that applies a source partition, or None."""
        table = self._by_source.get(source.topic)
        return None if table is None else self._owned.get((table, source.partition))

    def owns(self, table: str, number: int) -> bool:
        """Return whether this worker, and no other one, can answer for a partition."""
        partition = self.get(table, number)
        return partition is not None and partition.answers and self.lease.holds

    def complete_at(self, table: str, number: int) -> float | None:
        """Return when the rows here were complete, by `clocks.now`; None if never.

        They may be rows of an owner, of a former owner, or of a standby.
        """
        partition = self.get(table, number)
        if partition is not None:
            return partition.complete_at
        return self.tables[table].changelog.complete_at.get(number)

    def own(self, partition: OwnedPartition) -> None:
        """Add an owned partition."""
        self._owned[partition.key] = partition

    def owned(self) -> list[OwnedPartition]:
        """Return the partitions that this worker owns."""
        return list(self._owned.values())

    def give_up(self, partitions: Iterable[OwnedPartition]) -> None:
        """Close partitions."""
        for partition in list(partitions):
            self._owned.pop(partition.key, None)
            partition.close()

    def end_at(self, ends: Mapping[TP, int]) -> None:
        """Apply these sources only up to their ends, and all others without limit."""
        if ends != self.ends:
            self.ends.clear()
            self.ends.update(ends)
            self.on_new_ends()

    def applied(self) -> dict[TP, int]:
        """Return the next offset to apply of each source partition, as far as it is known."""
        return {
            source: partition.applied(source.topic)
            for partition in self.owned()
            for source in partition.sources()
            if partition.knows(source.topic)
        }
