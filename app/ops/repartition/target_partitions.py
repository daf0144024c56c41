"""The target partition of each row; pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import orjson

from app.domain.compact import dumps
from app.domain.errors import TopicsError
from app.domain.keys import partition_of, partitions_of
from app.engine.marker import (
    COUNT_KEY,
    LETTERS_PREFIX,
    MARKER_KEY,
    MOVES_PREFIX,
    OUTCOMES_PREFIX,
    RECENT_KEY,
    RESERVED_PREFIX,
)

#: A row of a changelog: its key, and its value or None if it was deleted.
Row = tuple[bytes, bytes | None]


def why_not(before: int, after: int) -> str | None:
    """Return why a registry cannot change to that number of partitions; None if it can."""
    if after <= before:
        return f"the registry has {before} partitions: only more are possible"
    if after % before:
        return (
            f"the registry has {before} partitions, and each is split into as many: "
            f"{2 * before}, {3 * before}, {4 * before} … are possible, and {after} is not"
        )
    return None


def children(partition: int, before: int, after: int) -> range:
    """Return the partitions that one partition is split into: itself, and new ones."""
    return range(partition, after, before)


def rows_by_target(
    partition: int, rows: Mapping[bytes, bytes | None], before: int, after: int
) -> Mapping[int, Sequence[Row]]:
    """Return the rows of a partition by their target partition.

    Without the marker and the count of users, which are not copied: a new owner counts. Each target
    gets its own part of the newest registrations (`recent_of`).
    """
    by_target: defaultdict[int, list[Row]] = defaultdict(list)
    plain = [key for key in rows if not key.startswith(RESERVED_PREFIX)]
    for key, target in zip(plain, partitions_of(plain, after), strict=True):
        if target % before != partition:
            raise TopicsError(f"a changelog has a row in a wrong partition, {partition}")
        by_target[target].append((key, rows[key]))
    for key in rows.keys() - plain:
        kept_at = _home_of_reserved(partition, key, after)
        if kept_at is not None:
            by_target[kept_at].append((key, rows[key]))
    return by_target


def _home_of_reserved(partition: int, key: bytes, after: int) -> int | None:
    if key in (MARKER_KEY, RECENT_KEY, COUNT_KEY):
        return None
    if key.startswith(LETTERS_PREFIX):
        return partition_of(key.removeprefix(LETTERS_PREFIX), after)
    if key.startswith((OUTCOMES_PREFIX, MOVES_PREFIX)):
        # These rows are about offsets, which stay in their partition.
        return partition
    raise TopicsError("a changelog has rows of a newer version")


def recent_of(target: int, recent: bytes, after: int) -> bytes:
    """Return the part of a partition's newest registrations that belongs to a target partition.

    Erased registrations have no id. They keep their time in every target, so that no list seems to
    reach further back than it does.
    """
    return dumps(
        [
            (at, user_id)
            for at, user_id in orjson.loads(recent)
            if not user_id or partition_of(user_id.encode(), after) == target
        ]
    )
