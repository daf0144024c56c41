"""The table ``recent-registrations``: the newest registrations, one bounded row a partition.

It holds ids and times only: names and addresses stand in the table ``users``, and nowhere twice.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pydantic import TypeAdapter

from app.main import app, registry_topics
from app.producer import SendsRecords
from tables import changelogged

#: How many each partition remembers, and so the most that a list over all of them can show.
RECENT_PER_PARTITION = 20

#: Each partition has this one row.
_KEY = b"recent"


class Recent(NamedTuple):
    """When a user was registered, and its id; ordered by both."""

    registered_at: datetime
    id: str


_ROW = TypeAdapter(list[Recent])


class RecentRegistrations:
    """Typed access to the newest registrations."""

    def __init__(self, table: changelogged.Table) -> None:
        self.table = table

    def newest(self, partition: int) -> list[Recent]:
        """Return the newest registrations of a partition, newest first."""
        stored = changelogged.store_of(self.table).read(partition, _KEY)
        return [] if stored is None else _ROW.validate_json(stored)

    async def add(
        self, producer: SendsRecords, partition: int, registered: Sequence[Recent]
    ) -> None:
        """Remember registrations, if they are among the newest; the oldest make room."""
        if not registered:
            return
        before = self.newest(partition)
        kept = sorted({*before, *registered}, reverse=True)[:RECENT_PER_PARTITION]
        if kept != before:
            row = {_KEY: _ROW.dump_json(kept)}
            await changelogged.write(producer, self.table, partition, row)


recent_registrations = RecentRegistrations(
    changelogged.declare(
        app,
        "recent-registrations",
        registry_topics.recent_changelog,
        help="The newest registrations, one row a partition.",
    )
)
