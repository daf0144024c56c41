"""The newest registrations: one bounded row a partition, beside the users it names.

It holds ids and times only: names and addresses stand in the users' rows, and nowhere twice.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from heapq import nlargest
from typing import NamedTuple

from pydantic import TypeAdapter

from app.engine.marker import RESERVED_PREFIX
from tables.store import PartitionedStore
from tables.users import users

#: How many each partition remembers, and so the most that a list over all of them can show.
RECENT_PER_PARTITION = 20

#: Each partition has this one row.
RECENT_KEY = RESERVED_PREFIX + b"recent"


class Recent(NamedTuple):
    """When a user was registered, and its id; ordered by both."""

    registered_at: datetime
    id: str


_ROW = TypeAdapter(list[Recent])


class RecentRegistrations:
    """Typed access to the newest registrations."""

    def __init__(self, store: PartitionedStore) -> None:
        self._store = store

    def newest(self, partition: int) -> list[Recent]:
        """Return the newest registrations of a partition, newest first."""
        stored = self._store.read(partition, RECENT_KEY)
        return [] if stored is None else _ROW.validate_json(stored)

    def with_new(
        self, partition: int, registered: Sequence[Recent]
    ) -> Mapping[bytes, bytes | None]:
        """Return the row in which registrations are remembered, if it differs from today's."""
        before = self.newest(partition)
        kept = nlargest(RECENT_PER_PARTITION, {*before, *registered})
        return {} if kept == before else {RECENT_KEY: _ROW.dump_json(kept)}


recent_registrations = RecentRegistrations(users.store)
