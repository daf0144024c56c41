"""The owned partitions: what is applied of them, and which requests wait for a record.

A partition is opened (its store is brought up to the end of the changelog, the marker says what is
applied), is written by cycles (`app.engine.cycles`), and closed when it is lost.
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
from app.kafka.fetching import diverged, diverges_at, made_anew, require_within
from app.kafka.transactions import FencedProducer, Rows, to_write

#: Is told the offset at which a record was written, before the transaction goes on.
Noted = Callable[[int], None]


@dataclass(slots=True)
class Changes:
    """What comes of records: rows of the table (None deletes) and records for other topics."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    outgoing: defaultdict[tuple[str, int], list[ToWrite]] = field(
        default_factory=lambda: defaultdict(list)
    )
    #: Partitions that will be written, too, if what is sent is applied in the same transaction.
    likely: set[TP] = field(default_factory=set)
    #: Records that are sent first, because something else in the transaction names their offsets.
    noted: list[tuple[Outgoing, Noted]] = field(default_factory=list)
    #: Offsets of source records of which nothing more will come.
    settled: list[int] = field(default_factory=list)
    #: Called once all of it is committed.
    on_commit: list[Callable[[], None]] = field(default_factory=list)

    def send(self, record: Outgoing) -> None:
        """Add a record for another topic."""
        self.outgoing[record.topic, record.partition].append(to_write(record))


#: A table's name and the number of a partition of it.
Key = tuple[str, int]

#: Adds to changes what time has made superfluous in a partition, by where its sources begin.
Tidy = Callable[[int, Mapping[str, int], Changes], None]


@dataclass(frozen=True, slots=True)
class AppliedTable:
    """A table that is written by transactions, and the topics whose records they apply."""

    name: str
    #: Those that are applied first come first.
    sources: tuple[str, ...]
    changelog: Changelog
    store: StoresRows
    #: Under what its rows are decided; rows that were decided under something else are refused.
    rules: str = ""


async def never_sealed() -> None:
    """Does nothing: this table has no seal."""


async def not_read_again(_: TP) -> None:
    """Does nothing: what was applied before is applied again like any record."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What opening a partition needs of the worker around it."""

    app_id: str
    connection: Connection
    reading: Reading
    #: Raises `NotWrittenError` while it is not sure that a sealed table goes on here after all.
    require_standing: Callable[[], Awaitable[None]] = never_sealed
    #: Called before records of a source are applied that others may have applied before.
    read_again: Callable[[TP], Awaitable[None]] = not_read_again


class OwnedPartition:
    """One partition of a table and its sources."""

    def __init__(self, table: AppliedTable, number: int, lease: Lease) -> None:
        self.table = table
        self.number = number
        self._lease = lease
        self._marker = Marker.first(table.rules)
        self._is_open = False
        #: Whether records may be applied and lookups answered: no rebalance may have moved it.
        self._is_begun = False
        #: Held while a transaction that writes this partition is under way.
        self._applying = asyncio.Lock()
        self._waiters: defaultdict[int, list[asyncio.Future[None]]] = defaultdict(list)
        #: Why what was tried last has failed; None while all is well.
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
        """Whether lookups may be answered: it is open, and no rebalance may have moved it."""
        return self._is_open and self._is_begun

    @property
    def complete_at(self) -> float | None:
        """When the store surely held all that was committed, by `clocks.now`, if ever."""
        if self.answers:
            self._note_complete()
        return self.table.changelog.complete_at.get(self.number)

    def _note_complete(self) -> None:
        # Nobody else has written anything while the lease held.
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
        """Yield the next offset of every source by a marker."""
        return ((tp, marker.next.get(tp.topic, 0)) for tp in self.sources())

    # -- its life

    async def open(self, opening: Opening, advanced: Advanced = lambda rows, left: None) -> None:
        """Bring the store up to date, and learn what is applied.

        A table that was sealed goes on only if what it was sealed for was given up. Raises
        `LostRecordsError` if records that are not applied yet are not in their log.
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
            await opening.require_standing()
            marker = marker.sealed(is_sealed=False)
        if (why := why_refused(marker.rules, self.table.rules)) is not None:
            raise ApplyError(f"the table {self.table.name} {why}; see docs/operations.md")
        self._marker = await self._within_logs(opening, marker)
        for tp in self.sources():
            if self._marker.reads_again(tp.topic):
                await opening.read_again(tp)
        self._is_open = True
        self.wake_all()

    async def _require_new(self, opening: Opening) -> None:
        """Raise `LostChangelogError` if an empty changelog is not that of a new registry.

        The group remembers what was applied, until a week after its last member has left.
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
        """Write the first marker of ours under the id by which version 0.8 fences owners.

        Its worker can write nothing more then, and refuses rules that it does not know.
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
        """Return the marker for the sources as they are; raise if they do not go on from it."""
        cluster = opening.reading.cluster
        sources = list(self.sources())
        await cluster.refresh()
        begins, ends = await cluster.starts(sources), await cluster.ends(sources)
        ids = {topic: short_id(cluster.topic_id(topic)) for topic in self.table.sources}
        for tp in sources:
            if marker.ids.get(tp.topic, ids[tp.topic]) != ids[tp.topic]:
                raise made_anew(tp, marker.next.get(tp.topic, 0))
            # Never reset: what is gone without having been applied is for people to decide about.
            if tp.topic in marker.next:
                require_within(tp, marker.next[tp.topic], begins[tp], ends[tp])
            else:
                marker = marker.beginning(tp.topic, begins[tp], ends[tp])
            if tp.topic in marker.read:
                # What follows was applied as it was sent: the fetch that comes next cannot tell.
                end = await diverges_at(cluster, tp, *marker.last_read(tp.topic))
                if end is not None:
                    raise diverged(tp, marker.next[tp.topic], end)
        return marker.under(self.table.rules, ids)

    def begin(self) -> None:
        """Let records be applied and lookups be answered from now on."""
        self._is_begun = True

    def pause(self) -> None:
        """Apply nothing and answer nothing: a rebalance may move the partition."""
        if self.answers:
            self._note_complete()
        self._is_begun = False
        self.wake_all()

    def distrust(self) -> None:
        """Take the store for what it is not sure to be: it must be opened again."""
        if self.answers:
            self._note_complete()
        self._is_open = False

    def close(self) -> None:
        """Give up what this worker holds of the partition."""
        self.pause()
        self._is_open = False
        self.table.store.close([self.number])

    # -- being written

    @property
    def applying(self) -> asyncio.Lock:
        """Held while a transaction that writes this partition is under way."""
        return self._applying

    def move_on(self, marker: Marker) -> None:
        """Take note that only control records were passed: the next transaction tells so."""
        self._marker = marker

    def apply(self, changes: Changes, marker: Marker, changelog_offset: int) -> None:
        """Write what was committed to the store; raise `StoreError` if it does not take it."""
        self.table.store.apply(self.number, changes.rows, changelog_offset)
        self._marker = marker
        self.trouble = None
        self._wake(self._waiters.keys() & changes.settled)

    # -- waiting

    async def caught_up(self) -> None:
        """Wait until the store has what is committed: a commit comes before its store's write."""
        async with self._applying:
            pass

    async def settled(self, offset: int) -> None:
        """Wait until something has become of a source record, or who waits should look again."""
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
        """Let everybody who waits look again."""
        self._wake(list(self._waiters))

    def _wake(self, offsets: Iterable[int]) -> None:
        for offset in offsets:
            for waiter in self._waiters.get(offset, ()):
                if not waiter.done():
                    waiter.set_result(None)


def short_id(topic_id: bytes) -> str:
    """Return what tells a topic from another one of its name."""
    return topic_id[:6].hex()


class Partitions:
    """The partitions that this worker owns, by table and number."""

    def __init__(self, lease: Lease | None = None) -> None:
        self.lease = lease or Lease()
        self._tables: dict[str, AppliedTable] = {}
        self._by_source: dict[str, str] = {}
        self._tidy: dict[str, Tidy] = {}
        self._owned: dict[Key, OwnedPartition] = {}
        #: Where sources end for now: while the registry is repartitioned.
        self.ends: dict[TP, int] = {}
        #: Called when sources end elsewhere.
        self.on_new_ends: Callable[[], None] = lambda: None
        #: The partitions that this worker keeps copies of, by table.
        self.standbys: dict[str, Sequence[int]] = {}

    # -- declaration

    def add(self, table: AppliedTable) -> None:
        """Let transactions write a table; they apply all its source topics."""
        self._tables[table.name] = table
        self._by_source.update(dict.fromkeys(table.sources, table.name))

    def keep_tidy(self, table: str, tidy: Tidy) -> None:
        """Let something be removed from a table now and then."""
        self._tidy[table] = tidy

    def tidy_of(self, table: str) -> Tidy:
        """Return what is removed from a table now and then."""
        return self._tidy.get(table, lambda partition, log_starts, changes: None)

    @property
    def tables(self) -> Mapping[str, AppliedTable]:
        """The tables, by name."""
        return self._tables

    @property
    def sources(self) -> Sequence[str]:
        """The topics whose records are applied, in the order in which a cycle applies them."""
        return [topic for table in self._tables.values() for topic in table.sources]

    # -- ownership

    def get(self, table: str, number: int) -> OwnedPartition | None:
        """Return a partition that this worker owns, or None."""
        return self._owned.get((table, number))

    def at(self, source: TP) -> OwnedPartition | None:
        """Return the partition that applies a source partition's records, if it is owned."""
        table = self._by_source.get(source.topic)
        return None if table is None else self._owned.get((table, source.partition))

    def owns(self, table: str, number: int) -> bool:
        """Return whether this worker can answer for a partition, and surely nobody else."""
        partition = self.get(table, number)
        return partition is not None and partition.answers and self.lease.holds

    def complete_at(self, table: str, number: int) -> float | None:
        """Return when the rows here were all that were committed, by `clocks.now`, if ever.

        They may be those of an owner, of one that was, or of a standby.
        """
        partition = self.get(table, number)
        if partition is not None:
            return partition.complete_at
        return self.tables[table].changelog.complete_at.get(number)

    def own(self, partition: OwnedPartition) -> None:
        """Take a partition among those owned."""
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
        """Apply sources up to their ends, and others without."""
        if ends != self.ends:
            self.ends.clear()
            self.ends.update(ends)
            self.on_new_ends()

    def applied(self) -> dict[TP, int]:
        """Return the next offset to apply of each source partition that is known."""
        return {
            source: partition.applied(source.topic)
            for partition in self.owned()
            for source in partition.sources()
            if partition.knows(source.topic)
        }
