"""The newest registrations: one bounded row in each partition of ``users``.

It holds ids and times only: names and addresses stand in the users' rows, and nowhere twice.
"""

from collections.abc import Collection, Container, Mapping
from typing import NamedTuple

import orjson

from app.domain.compact import dumps
from app.domain.records import UserRow
from app.engine.marker import RECENT_KEY
from app.kafka.transactions import Rows
from tables.store import PartitionedStore

#: How many each partition remembers, and so the most that a list over all of them can show.
RECENT_PER_PARTITION = 20


class Recent(NamedTuple):
    """When a user was registered, as its row has it, and its id; ordered by both."""

    registered_at: str
    id: str


class RecentRegistrations:
    """Typed access to the newest registrations."""

    def __init__(self, store: PartitionedStore) -> None:
        self._store = store

    def newest(self, partition: int) -> list[Recent]:
        """Return the newest registrations of a partition, newest first; erased ones have no id."""
        stored = self._store.read(partition, RECENT_KEY)
        return [] if stored is None else _decode(stored)

    def changed(
        self, partition: int, registered: Collection[UserRow], erased: Container[str], pending: Rows
    ) -> Mapping[bytes, bytes | None]:
        """Return the row with new users and without erased ones, if it differs from that before."""
        stored = pending.get(RECENT_KEY)
        before = self.newest(partition) if stored is None else _decode(stored)
        # Sorted nearly as they come: that is quicker than looking for the largest.
        times = sorted([(row["registered_at"], row["id"]) for row in registered])
        newest = {*before, *times[-RECENT_PER_PARTITION:]}
        # An erased one leaves its time: how far back the others go must not seem further.
        named = {(at, "" if user_id in erased else user_id) for at, user_id in newest}
        kept = sorted(named, reverse=True)[:RECENT_PER_PARTITION]
        return {} if kept == before else {RECENT_KEY: dumps([tuple(recent) for recent in kept])}


def _decode(stored: bytes) -> list[Recent]:
    return [Recent(*recent) for recent in orjson.loads(stored)]
