"""The verification: partition by partition, then what leads from one partition to another."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.registration import Decision
from app.settings import Settings
from app.topics import declare
from app.verify.comparison import (
    LETTERS,
    MOVES,
    Names,
    Span,
    check_marker,
    compare_rows,
    compare_traces,
)
from app.verify.findings import Findings
from app.verify.fold import LetterFold, Offsets, SourceFold, TableFold
from app.verify.progress import bar
from app.verify.reading import Extent, Reader, reader
from app.verify.stores import Store, compare_store, held


async def verify(settings: Settings, findings: Findings, stores: Sequence[Path] = ()) -> None:
    """Verify a registry, and the stores in data folders; raise `RegistryError` if that cannot be.

    Workers may run meanwhile, but not on the stores that are to be compared.
    """
    topics = declare(settings)
    sources, letters = topics.user_registrations, topics.dead_letter
    with held(stores) as databases:
        async with reader(
            settings.kafka_brokers, (sources, letters, topics.users_changelog)
        ) as reading:
            # In this order: whatever the changelog says is applied, the others have (see extents).
            log = Logs(
                changelogs=await reading.committed_extents(topics.users_changelog),
                sources=await reading.extents(sources),
                dead_letters=await reading.extents(letters),
                names=Names(sources.name, topics.users_changelog.name, letters.name),
            )
            with bar(log.size(databases)) as advance:
                reading.advance = advance
                await _Verification(log, reading, findings).run(databases)


@dataclass(frozen=True, slots=True)
class Logs:
    """What there is to read, partition by partition."""

    changelogs: Sequence[Extent]
    sources: Sequence[Extent]
    dead_letters: Sequence[Extent]
    names: Names

    def size(self, databases: Sequence[Store]) -> int:
        """Return how many offsets there are to read; a changelog is read once more for a store."""
        again = [self.changelogs[s.partition] for s in databases if s.partition < len(self.sources)]
        return sum(map(len, [*self.changelogs, *self.sources, *self.dead_letters, *again]))

    def begun_late(self) -> set[int]:
        """Return the partitions of the registrations whose beginning is gone."""
        return {extent.partition for extent in self.sources if extent.start}


@dataclass(frozen=True, slots=True)
class _Traces:
    """What the records of one partition must have left in other partitions."""

    span: Span
    unreadable: Offsets
    moved: Offsets
    moved_perhaps: Offsets


@dataclass(slots=True)
class _Verification:
    logs: Logs
    reading: Reader
    findings: Findings

    traces: list[_Traces] = field(default_factory=list)
    copies: defaultdict[int, list[Offsets]] = field(default_factory=lambda: defaultdict(list))
    totals: Counter[str] = field(default_factory=Counter)
    decisions: Counter[Decision] = field(default_factory=Counter)

    async def run(self, databases: Sequence[Store]) -> None:
        """Verify everything, and tell the findings."""
        for changelog, source in zip(self.logs.changelogs, self.logs.sources, strict=True):
            await self._partition(changelog, source)
        letters = await self._letters()
        self._tell(letters)
        self._compare_moves()
        self._compare_letters(letters)
        for store in databases:
            await self._store(store)

    async def _partition(self, changelog: Extent, source: Extent) -> None:
        names, findings = self.logs.names, self.findings
        table = TableFold(changelog.partition, source.start)
        async for records in self.reading.read(changelog):
            table.add(records)
        until = check_marker(table, names.source, source.start, source.end, names, findings)
        fold = SourceFold(source.partition, len(self.logs.sources), until, self.logs.begun_late())
        async for records in self.reading.read(source):
            fold.add(records)
        unchecked = compare_rows(fold, table, names, findings)
        self._tell_of_beginning(source, unchecked)
        self._count(fold, table)
        end = source.end if until is None else until
        span = Span(names.source, source.partition, source.start, end)
        self.traces.append(_Traces(span, fold.unreadable, fold.moved, fold.moved_perhaps))

    def _count(self, fold: SourceFold, table: TableFold) -> None:
        for origin, copies in fold.copies.items():
            self.copies[origin].append(copies)
        self.decisions.update(fold.decisions)
        self.totals["moved"] += len(fold.moved.all) + len(fold.moved_perhaps.all)
        self.totals["records"] += fold.records
        self.totals["unreadable"] += len(fold.unreadable.all)
        self.totals["not applied"] += fold.not_applied
        self.totals["foreign copies"] += fold.foreign_copies
        self.totals["rows"] += len(table.rows)
        self.totals["without marker"] += table.marker is None and fold.records > 0

    def _tell_of_beginning(self, source: Extent, unchecked: int) -> None:
        if source.start:
            self.findings.unchecked.append(
                f"{source.topic} {source.partition}: the log begins at {source.start}; "
                f"{unchecked:,} rows of users were made by records before that"
            )

    async def _letters(self) -> LetterFold:
        letters = LetterFold(self.logs.names.source)
        for extent in self.logs.dead_letters:
            async for records in self.reading.read(extent):
                letters.add(records)
        return letters

    def _compare_moves(self) -> None:
        gone = 0
        for traces in self.traces:
            found = Offsets.joined(self.copies[traces.span.partition])
            gone += compare_traces(
                MOVES, traces.span, traces.moved, traces.moved_perhaps, found, self.findings
            )
        if gone:
            self.findings.unchecked.append(
                f"{self.logs.names.source}: {gone:,} records were to be moved to partitions whose "
                "beginning is gone, perhaps with the copies"
            )

    def _compare_letters(self, letters: LetterFold) -> None:
        # A letter may stand in any partition: only a topic that is whole can lack one for certain.
        whole = not any(extent.start for extent in self.logs.dead_letters)
        gone = 0
        for traces in self.traces:
            expected, perhaps = traces.unreadable, Offsets()
            if not whole:
                expected, perhaps = perhaps, expected
            found = letters.letters[traces.span.partition]
            gone += compare_traces(LETTERS, traces.span, expected, perhaps, found, self.findings)
        if not whole:
            self.findings.unchecked.append(
                f"{self.logs.names.dead_letters}: its beginning is gone, perhaps with the letters "
                f"of {gone:,} records"
            )

    async def _store(self, store: Store) -> None:
        if store.partition >= len(self.logs.changelogs):
            self.findings.unchecked.append(f"{store.path}: there is no such partition")
            return
        extent = self.logs.changelogs[store.partition]
        await compare_store(store, extent, self.reading, self.logs.names, self.findings)

    def _tell(self, letters: LetterFold) -> None:
        names, totals, notes = self.logs.names, self.totals, self.findings.notes
        decided = ", ".join(f"{self.decisions[decision]:,} {decision}" for decision in Decision)
        notes.append(
            f"{names.source}: {len(self.logs.sources)} partitions, {totals['records']:,} records: "
            f"{decided}, {totals['moved']:,} moved, {totals['unreadable']:,} unreadable"
        )
        notes.append(f"users: {totals['rows']:,} rows")
        notes.append(f"{names.dead_letters}: {letters.records - letters.others:,} dead letters")
        if totals["not applied"]:
            notes.append(f"not applied yet: {totals['not applied']:,} records")
        if without := totals["without marker"]:
            notes.append(f"no applied marker in {without} partitions: folded to the end")
        if letters.others:
            notes.append(f"{letters.others:,} records there are no dead letters of ours")
        if totals["foreign copies"]:
            notes.append(f"{totals['foreign copies']:,} records say they were moved from nowhere")
