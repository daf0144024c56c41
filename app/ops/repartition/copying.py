"""Copies rows to changelogs with more partitions, while workers continue.

It reads the changelogs as a standby does: everything from the beginning, then new rows. The last
row of a key counts in the copy, as in the original.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from aiokafka import AIOKafkaProducer

from app.config.connection import Connection
from app.domain.errors import TopicsError
from app.engine.marker import MARKER_KEY, RECENT_KEY, Marker
from app.kafka.fast_records import NO_HEADERS, ToWrite, fill
from app.kafka.partition_reader import Reader, TopicFollower
from app.kafka.topics import Topics
from app.kafka.transactions import MAX_BATCH_BYTES
from app.ops.repartition.quiet import Place
from app.ops.repartition.target_partitions import Row, children, recent_of, rows_by_target


def _targets(before: Topics, after: Topics) -> Mapping[str, str]:
    return {
        before.users_changelog.name: after.users_changelog.name,
        before.emails_changelog.name: after.emails_changelog.name,
    }


def _tables(topics: Topics) -> Mapping[str, str]:
    return {topics.users_changelog.name: "users", topics.emails_changelog.name: "emails"}


@dataclass(slots=True)
class Copying:
    """The copying of all changelogs: what was read, and what is written at the end."""

    following: TopicFollower
    producer: AIOKafkaProducer
    #: The target changelog of each changelog.
    targets: Mapping[str, str]
    #: The table of each changelog.
    tables: Mapping[str, str]
    before: int
    after: int

    #: The newest marker of each changelog partition.
    markers: dict[Place, Marker] = field(default_factory=dict)
    _recent: dict[Place, bytes] = field(default_factory=dict)
    rows: int = 0

    def places(self) -> Iterator[Place]:
        """Yield every changelog partition that is copied."""
        return ((topic, number) for topic in self.targets for number in range(self.before))

    async def left(self) -> int:
        """Return how many committed offsets are not copied yet."""
        return await self.following.left()

    async def catch_up(self) -> None:
        """Copy all rows that are committed now."""
        async for extent, records in self.following.read():
            rows = {record.key or b"": record.value for record in records}
            await self._copy((extent.topic, extent.partition), rows)

    async def _copy(self, place: Place, rows: Mapping[bytes, bytes | None]) -> None:
        topic, partition = place
        if (marker := rows.get(MARKER_KEY)) is not None:
            self.markers[place] = Marker.decode(marker)
        if (recent := rows.get(RECENT_KEY)) is not None:
            self._recent[place] = recent
        by_target = rows_by_target(partition, rows, self.before, self.after)
        await self._send(self.targets[topic], by_target)
        self.rows += sum(map(len, by_target.values()))

    async def finish(self, following: Mapping[Place, Mapping[str, int]]) -> None:
        """Write the end of the new changelogs: newest registrations, and markers.

        ``following`` has the next offsets of the sources of each partition that was read.
        """
        for place in self.places():
            topic, partition = place
            marker = self.markers.get(place)
            if marker is None:
                continue  # nothing was ever applied: a new owner begins at the beginning
            ends: dict[int, Sequence[Row]] = {}
            for target in children(partition, self.before, self.after):
                ends[target] = self._last_rows(place, target, marker, following[place])
            await self._send(self.targets[topic], ends)

    def _last_rows(
        self, place: Place, target: int, marker: Marker, following: Mapping[str, int]
    ) -> Sequence[Row]:
        recent = self._recent.get(place)
        first = [] if recent is None else [(RECENT_KEY, recent_of(target, recent, self.after))]
        # A new partition has applied nothing, and begins at the beginning of its sources.
        applied = following if target == place[1] else {}
        new = Marker(log=uuid4().hex, next=applied, rules=marker.rules)
        return [*first, (MARKER_KEY, new.encode())]

    async def _send(self, topic: str, by_target: Mapping[int, Sequence[Row]]) -> None:
        sent = []
        for target, rows in by_target.items():
            records: Iterator[ToWrite] = ((None, key, row, NO_HEADERS) for key, row in rows)
            record = next(records, None)
            while record is not None:
                batch = self.producer.create_batch()
                record = fill(batch, record, records)
                sent.append(await self.producer.send_batch(batch, topic, partition=target))
        await asyncio.gather(*sent)


@asynccontextmanager
async def copying(
    connection: Connection, reading: Reader, before: Topics, after: Topics
) -> AsyncIterator[Copying]:
    """Begin to copy from the old changelogs to the new ones, which are empty."""
    producer = AIOKafkaProducer(
        **connection.client(),
        acks="all",
        enable_idempotence=True,
        max_batch_size=MAX_BATCH_BYTES,
    )
    changelogs = before.users_changelog, before.emails_changelog
    async with producer:
        yield Copying(
            TopicFollower(reading, changelogs),
            producer,
            _targets(before, after),
            _tables(before),
            before.users_changelog.partitions,
            after.users_changelog.partitions,
        )


def require_same(copied: Mapping[Place, Marker], now: Mapping[Place, Marker]) -> None:
    """Raise `TopicsError` if something was applied since a moment."""
    if copied != now:
        raise TopicsError("records were applied at the last moment; nothing was changed, try again")
