"""A registry in memory: the agents' own decisions, in transactions of any order; no broker."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random

import orjson
import pytest
from faust.types import TP

from app.config.settings import settings
from app.domain.consumed_records import ConsumedRecord
from app.domain.records import Headers
from app.engine.marker import MARKER_KEY, Marker, rules
from app.engine.partitions import Changes
from app.kafka.fast_records import ToWrite
from app.kafka.partition_reader import Advance, Extent
from app.kafka.topics import TopicSpec
from app.kafka.transactions import Rows
from app.main import build

WORKER = build(settings())
DECIDING, topics = WORKER.deciding, WORKER.topics
PARTITIONS = topics.user_registrations.partitions

#: The id of each topic, unless it was recreated.
FIRST_ID = bytes(16)

#: Decides records of a partition, and adds what comes of them to changes.
Decide = Callable[[int, Sequence[ConsumedRecord], Changes], None]

#: Of each source: the table that its records are applied to.
SOURCES = {
    topics.user_registrations.name: "users",
    topics.email_decisions.name: "users",
    topics.email_claims.name: "emails",
}
CHANGELOGS = {"users": topics.users_changelog.name, "emails": topics.emails_changelog.name}


def _decide(source: str) -> Decide:
    """Return what decides the records of a source."""
    return {
        topics.user_registrations.name: DECIDING.decide_registrations,
        topics.email_decisions.name: DECIDING.decide_verdicts,
        topics.email_claims.name: DECIDING.decide_claims,
    }[source]


@dataclass(frozen=True)
class Record:
    """A record, as a consumer gives it."""

    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()
    timestamp: int = 1_700_000_000_000


@dataclass
class Log:
    """A partition of a topic; control records leave gaps."""

    records: list[Record] = field(default_factory=list)
    start: int = 0
    end: int = 0

    def append(self, record: Record) -> int:
        """Add a record at the end; return its offset."""
        self.records.append(replace(record, offset=self.end))
        self.end += 1
        return self.end - 1

    def remove_below(self, offset: int) -> None:
        """Remove the beginning, as retention does."""
        self.start = max(self.start, offset)
        self.records = [record for record in self.records if record.offset >= offset]

    def newest(self, key: bytes) -> int:
        """Return the index of the newest record of a key."""
        return max(index for index, record in enumerate(self.records) if record.key == key)


@dataclass
class Simulation:
    """The topics and tables of one registry."""

    patch: pytest.MonkeyPatch
    random: Random = field(default_factory=lambda: Random(1))
    logs: defaultdict[tuple[str, int], Log] = field(default_factory=lambda: defaultdict(Log))
    tables: dict[str, list[dict[bytes, bytes]]] = field(default_factory=dict)
    markers: dict[tuple[str, int], Marker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tables = WORKER.tables
        for table, store in (("users", tables.users.store), ("emails", tables.emails.store)):
            rows = self.tables[table] = [{} for _ in range(PARTITIONS)]
            self._serve(store, rows)
            for number in range(PARTITIONS):
                marker = Marker.first(rules(settings().email_keys))
                for source, of in SOURCES.items():
                    marker = marker.after(source, 0) if of == table else marker
                self.markers[table, number] = marker
        self.open()

    def open(self) -> None:
        """Prepare the partitions of users, as their owners do when they open them."""
        for number in range(PARTITIONS):
            counting = WORKER.tables.counts.count(number)
            with suppress(StopIteration):
                while True:
                    counting.send(None)

    def _serve(self, store: object, rows: list[dict[bytes, bytes]]) -> None:
        def read(partition: int, key: bytes) -> bytes | None:
            return rows[partition].get(key)

        def read_many(partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
            return [rows[partition].get(key) for key in keys]

        def keys_between(partition: int, first: bytes, end: bytes, limit: int) -> list[bytes]:
            return sorted(key for key in rows[partition] if first <= key < end)[:limit]

        def rows_between(partition: int, first: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
            return iter(sorted((k, row) for k, row in rows[partition].items() if first <= k < end))

        for method in (read, read_many, keys_between, rows_between):
            self.patch.setattr(store, method.__name__, method)

    def log(self, topic: TopicSpec, partition: int) -> Log:
        """Return a partition of a topic."""
        return self.logs[topic.name, partition]

    def all(self, topic: TopicSpec) -> list[tuple[Log, Record]]:
        """Return every record of a topic, with its partition."""
        logs = [self.log(topic, number) for number in range(PARTITIONS)]
        return [(log, record) for log in logs for record in log.records]

    def arrive(self, partition: int, key: bytes | None, value: bytes | None) -> int:
        """Write a record to ``user-registrations``; return its offset."""
        return self.log(topics.user_registrations, partition).append(Record(0, key, value))

    def arrive_many(self, count: int, ids: int = 12, addresses: int = 6) -> None:
        """Write records of all kinds, on few ids and addresses, to any partitions."""
        for number in range(count):
            key, value = self._any_record(number, f"u{self.random.randrange(ids)}", addresses)
            self.arrive(self.random.randrange(PARTITIONS), key, value)

    def _any_record(
        self, number: int, user_id: str, addresses: int
    ) -> tuple[bytes | None, bytes | None]:
        kind = self.random.random()
        name, email = f"n{number % 2}", f"e{self.random.randrange(addresses)}@example.com"
        if kind < 0.45:
            return None, orjson.dumps({"id": user_id, "name": name, "email": email})
        # Some changes are for one version of a user only.
        condition = {"ifVersion": 1 + number % 3} if number % 4 == 0 else {}
        if kind < 0.75:
            change = {"email": email} if kind < 0.65 else {"name": name}
            return None, orjson.dumps({"type": "update", "id": user_id, **change, **condition})
        if kind < 0.9 and condition:
            return None, orjson.dumps({"type": "erase", "id": user_id, **condition})
        if kind < 0.9:
            return user_id.encode(), None
        if kind < 0.95:
            return None, b"nonsense %d" % number
        return user_id.encode(), orjson.dumps({"id": user_id, "name": 7})

    # -- applying

    def run(self, steps: int | None = None) -> None:
        """Apply records, a transaction a step; all that there are if no number is given."""
        done = 0
        while steps is None or done < steps:
            candidates = [*self._unapplied()]
            if not candidates:
                return
            self._step(*self.random.choice(candidates))
            done += 1

    def _unapplied(self) -> Iterable[tuple[str, int]]:
        for source, table in SOURCES.items():
            for number in range(PARTITIONS):
                records = self.logs[source, number].records
                if records and records[-1].offset >= self.markers[table, number].next[source]:
                    yield source, number

    def _step(self, source: str, number: int) -> None:
        """Apply a batch."""
        table = SOURCES[source]
        marker = self.markers[table, number]
        waiting = [r for r in self.logs[source, number].records if r.offset >= marker.next[source]]
        batch = waiting[: self.random.randint(1, 20)]
        changes = Changes()
        _decide(source)(number, batch, changes)
        self.commit(table, number, changes, marker.after(source, batch[-1].offset + 1))

    def tidy(self) -> None:
        """Remove what is of no use any more from ``users``."""
        for number in range(PARTITIONS):
            changes = Changes()
            starts = {source: self.logs[source, number].start for source in SOURCES}
            DECIDING.tidy_users(number, starts, changes)
            self.commit("users", number, changes, self.markers["users", number])

    def commit(self, table: str, number: int, changes: Changes, marker: Marker) -> None:
        """Write what comes of a batch, and the marker."""
        touched = {(CHANGELOGS[table], number)}
        for record, noted in changes.noted:
            written = Record(0, record.key, record.value, record.headers)
            noted(self.logs[record.topic, record.partition].append(written))
            touched.add((record.topic, record.partition))
        self._write_rows(table, number, {**changes.rows, MARKER_KEY: marker.encode()})
        for (topic, partition), records in changes.outgoing.items():
            self._write(topic, partition, records)
            touched.add((topic, partition))
        for log in touched:
            self.logs[log].end += 1  # the control record
        self.markers[table, number] = marker

    def _write_rows(self, table: str, number: int, rows: Rows) -> None:
        for key, row in rows.items():
            self.logs[CHANGELOGS[table], number].append(Record(0, key, row))
            if row is None:
                self.tables[table][number].pop(key, None)
            else:
                self.tables[table][number][key] = row

    def _write(self, topic: str, partition: int, records: Iterable[ToWrite]) -> None:
        for _, key, value, headers in records:
            self.logs[topic, partition].append(Record(0, key, value, headers))


@dataclass
class SimulatedReader:
    """Reads the topics of a simulation, which may go on whenever an end is taken."""

    simulation: Simulation
    between: Callable[[], None] = lambda: None
    advance: Advance = lambda description, further: None
    #: By topic, if it is another one than the first of its name.
    ids: Mapping[str, bytes] = field(default_factory=dict)
    #: Where logs lost their ends, before they went on.
    lost: Mapping[TP, int] = field(default_factory=dict)

    def topic_id(self, topic: str) -> bytes:
        """Return what tells a topic from another one of its name."""
        return self.ids.get(topic, FIRST_ID)

    async def diverges_at(self, tp: TP, offset: int, epoch: int) -> int | None:
        """Return where a log has lost its end, before an offset."""
        return self.lost.get(tp)

    async def extents(self, topic: TopicSpec) -> Sequence[Extent]:
        """Return the partitions of a topic, as they are now."""
        self.between()
        logs = [self.simulation.log(topic, number) for number in range(PARTITIONS)]
        return [Extent(topic.name, n, log.start, log.end) for n, log in enumerate(logs)]

    async def read(self, extent: Extent) -> AsyncIterator[Sequence[ConsumedRecord]]:
        """Yield the records of a partition in batches."""
        log = self.simulation.logs[extent.topic, extent.partition]
        records = [r for r in log.records if extent.start <= r.offset < extent.end]
        size = self.simulation.random.randint(1, 50)
        for first in range(0, len(records), size):
            yield records[first : first + size]
