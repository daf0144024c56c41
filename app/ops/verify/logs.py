"""The logs to read, by topic and partition."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

from app.kafka.partition_reader import Extent, Reader
from app.kafka.topics import Topics
from app.ops.verify.stores import Store

#: The tables, by the names of their changelogs and stores.
USERS, EMAILS = "users", "emails"


@dataclass(frozen=True, slots=True)
class Logs:
    """The partitions of all topics, in the order in which their ends were asked for.

    The changelogs come first, with their committed ends. A transaction writes its rows, its marker
    and all other records at once. So everything that follows from an applied record is below the
    ends of the other topics. These ends include open transactions, because a commit reaches the
    topics of a transaction one after the other. So a record that is missing there is certainly
    missing.

    Either table may be ahead of the other. `emails` may have settled claims of users whose rows are
    still pending here. It may also lack claims whose verdicts `users` has applied, because its own
    commit may have reached its changelog last. So each table is compared with the topics between
    them. The two tables are compared with each other only where nothing is in flight.

    Nothing is in flight if no source has records beyond its marker. To make this certain, causes
    are asked for last: an outcome follows from a record or verdict, a verdict from a claim, and
    everything from a record of ``user-registrations``. Whatever began after the changelogs were
    read follows from a record that is seen here.
    """

    users: Sequence[Extent]
    emails: Sequence[Extent]
    outcomes: Sequence[Extent]
    dead_letters: Sequence[Extent]
    decisions: Sequence[Extent]
    claims: Sequence[Extent]
    registrations: Sequence[Extent]

    @classmethod
    async def find(cls, topics: Topics, committed: Reader, everything: Reader) -> Self:
        """Ask for the ends of all topics, one topic after the other."""
        return cls(
            users=await committed.extents(topics.users_changelog),
            emails=await committed.extents(topics.emails_changelog),
            outcomes=await everything.extents(topics.registration_outcomes),
            dead_letters=await everything.extents(topics.dead_letter),
            decisions=await everything.extents(topics.email_decisions),
            claims=await everything.extents(topics.email_claims),
            registrations=await everything.extents(topics.user_registrations),
        )

    @property
    def partitions(self) -> int:
        """How many partitions each topic has."""
        return len(self.registrations)

    def size(self, stores: Sequence[Store]) -> int:
        """Return how many offsets there are to read.

        For each store a changelog is read once more.
        """
        again = filter(None, map(self.changelog_of, stores))
        twice = (
            self.users[number]
            for number in range(self.partitions)
            if self.begins_late(number)
            or self.outcomes[number].start
            or self.dead_letters[number].start
        )
        return sum(map(len, [*self._all(), *again, *twice]))

    def _all(self) -> Iterator[Extent]:
        for declared in fields(self):
            yield from getattr(self, declared.name)

    def begins_late(self, partition: int) -> bool:
        """Return whether records that made the users of a partition are gone."""
        return bool(self.registrations[partition].start or self.decisions[partition].start)

    def changelog_of(self, store: Store) -> Extent | None:
        """Return the changelog partition of a store, if there is one."""
        changelogs = self.users if store.table == USERS else self.emails
        return changelogs[store.partition] if store.partition < len(changelogs) else None


def late(extents: Sequence[Extent]) -> set[int]:
    """Return the partitions of a topic whose beginning is gone."""
    return {extent.partition for extent in extents if extent.start}
