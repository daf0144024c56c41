"""How many users each partition has: one row beside the users' rows, written with them."""

import asyncio
from collections.abc import Iterable, Mapping
from itertools import islice

from app.domain.counts import Count, day_of, is_counted
from app.domain.records import UserRow, decode_row
from app.engine.marker import COUNT_KEY, RESERVED_PREFIX
from app.kafka.transactions import Rows
from tables.store import PartitionedStore

#: Rows that are counted before other tasks run: about two milliseconds.
_ROWS_AT_ONCE = 1_000


class UserCounts:
    """Typed access to the counts."""

    def __init__(self, store: PartitionedStore) -> None:
        self._store = store
        #: Of partitions whose store has no count yet.
        self._counted: dict[int, Count] = {}

    def of(self, partition: int) -> Count | None:
        """Return the count of a partition; None if nobody has counted its users yet."""
        stored = self._store.read(partition, COUNT_KEY)
        return self._counted.get(partition) if stored is None else Count.decode(stored)

    def users(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return how many users some partitions have, by partition, where somebody has counted."""
        counts = ((number, self.of(number)) for number in partitions)
        return {number: count.users for number, count in counts if count is not None}

    def changed(
        self,
        partition: int,
        registered: Iterable[UserRow],
        erased: Iterable[UserRow],
        pending: Rows,
    ) -> Mapping[bytes, bytes]:
        """Return the row once some users have come and others gone, if it differs by that.

        There is none while nobody has counted: a wrong one would stay wrong.
        """
        came, gone = list(map(day_of, registered)), list(map(day_of, erased))
        if not came and not gone:
            return {}
        stored = pending.get(COUNT_KEY)
        before = self.of(partition) if stored is None else Count.decode(stored)
        return {} if before is None else {COUNT_KEY: before.after(came, gone).encode()}

    async def count(self, partition: int) -> None:
        """Count the users of a partition that is being opened, if its store has no count.

        That is so in a new registry, after a repartition, and with rows of version 0.8.
        """
        self._counted.pop(partition, None)
        if self._store.read(partition, COUNT_KEY) is not None:
            return
        found, after = Count(), b""
        while rows := list(
            islice(self._store.rows_between(partition, after, RESERVED_PREFIX), _ROWS_AT_ONCE)
        ):
            users = (decode_row(row) for _, row in rows)
            found = found.after([day_of(user) for user in users if is_counted(user)], ())
            after = rows[-1][0] + b"\0"
            await asyncio.sleep(0)
        self._counted[partition] = found
