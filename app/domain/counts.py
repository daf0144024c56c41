"""How many users there are, in all and by the day of their registration; pure.

Each partition keeps its own count. It follows from the rows of the partition's users alone, so that
a new owner, and `verify`, can count again. A user counts from being registered until being erased.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from app.domain.compact import dumps
from app.domain.records import UserRow

#: How many days are kept: the newest ones on which users registered who are there still.
MAX_DAYS = 60

_DAY_LETTERS = len("2026-01-31")


@dataclass(frozen=True, slots=True)
class Count:
    """Users in all, and by the day (UTC) of their registration.

    ``since``: on the days from this one on, these are all; of earlier days nothing is known. It is
    empty if all days are known.
    """

    users: int = 0
    days: Mapping[str, int] = field(default_factory=dict)
    since: str = ""

    def after(self, registered: Collection[str], erased: Collection[str]) -> "Count":
        """Return the count once users who registered on some days have come, and others gone."""
        days = Counter(self.days)
        days.update(registered)
        days.subtract(erased)
        users = self.users + len(registered) - len(erased)
        return _bounded(users, days, self.since)

    def encode(self) -> bytes:
        """Return the count as JSON bytes."""
        return dumps({"users": self.users, "days": self.days, "since": self.since})

    @classmethod
    def decode(cls, stored: bytes) -> "Count":
        """Return the count in JSON bytes that `encode` has made."""
        return cls(**orjson.loads(stored))


def day_of(row: UserRow) -> str:
    """Return the day of a user's registration: ``2026-01-31``, in UTC."""
    return row["registered_at"][:_DAY_LETTERS]


def is_counted(row: UserRow) -> bool:
    """Return whether a row is that of a user: before the address is granted, it is not."""
    return row["status"] == "registered"


def total(counts: Iterable[Count]) -> Count:
    """Return the sum of several counts, of the days that all of them know."""
    counts = list(counts)
    days: Counter[str] = Counter()
    for count in counts:
        days.update(count.days)
    since = max((count.since for count in counts), default="")
    return _bounded(sum(count.users for count in counts), days, since)


def _bounded(users: int, days: Mapping[str, int], since: str) -> Count:
    known = sorted(day for day, some in days.items() if some and day >= since)
    kept = known[-MAX_DAYS:]
    return Count(users, {day: days[day] for day in kept}, since if kept == known else kept[0])
