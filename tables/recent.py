"""The table ``recent-registrations``: the newest registrations, one bounded row a partition."""

from collections.abc import Iterable, Sequence

from pydantic import TypeAdapter

from app.main import app, registry_topics
from app.producer import SendsRecords
from app.records import User
from tables import changelogged

#: How many each partition remembers, and so the most that a list over all of them can show.
RECENT_PER_PARTITION = 20

#: Each partition has this one row.
_KEY = b"recent"

_LIST = TypeAdapter(list[User])


class RecentRegistrations:
    """Typed access to the newest registrations."""

    def __init__(self, table: changelogged.Table) -> None:
        self.table = table

    def newest(self, partitions: Iterable[int]) -> list[User]:
        """Return the newest registrations of some partitions, newest first."""
        users = [user for partition in partitions for user in self._read(partition)]
        return newest_first(users)[:RECENT_PER_PARTITION]

    async def add(self, producer: SendsRecords, partition: int, users: Sequence[User]) -> None:
        """Remember registered users, if they are among the newest; the oldest make room."""
        if not users:
            return
        before = self._read(partition)
        known = {user.id: user for user in [*before, *users]}
        kept = newest_first(list(known.values()))[:RECENT_PER_PARTITION]
        if kept != before:
            row = {_KEY: _LIST.dump_json(kept)}
            await changelogged.write(producer, self.table, partition, row)

    def _read(self, partition: int) -> list[User]:
        stored = changelogged.store_of(self.table).read(partition, _KEY)
        return [] if stored is None else _LIST.validate_json(stored)


def newest_first(users: Sequence[User]) -> list[User]:
    """Return users by time of registration, the newest first; ties by id."""
    return sorted(users, key=lambda user: (user.registered_at, user.id), reverse=True)


recent_registrations = RecentRegistrations(
    changelogged.declare(
        app,
        "recent-registrations",
        registry_topics.recent_changelog,
        help="The newest registrations, one row a partition.",
    )
)
