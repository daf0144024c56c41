"""Which partition a row goes to; pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import orjson

from app.domain.compact import dumps
from app.domain.errors import TopicsError
from app.domain.keys import partition_of, partitions_of
from app.engine.marker import (
    LETTERS_PREFIX,
    MARKER_KEY,
    MOVES_PREFIX,
    OUTCOMES_PREFIX,
    RECENT_KEY,
    RESERVED_PREFIX,
)

#: A row as a changelog has it: its key, and None if it is gone.
Row = tuple[bytes, bytes | None]


def why_not(before: int, after: int) -> str | None:
    """Return why a registry cannot have so many partitions after so many, or None if it can."""
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


def rows_by_home(
    partition: int, rows: Mapping[bytes, bytes | None], before: int, after: int
) -> Mapping[int, Sequence[Row]]:
    """Return the rows of a partition by where they belong afterwards.

    The marker is no row to be copied, and who came last is `recent_of` each.
    """
    by_home: defaultdict[int, list[Row]] = defaultdict(list)
    plain = [key for key in rows if not key.startswith(RESERVED_PREFIX)]
    for key, home in zip(plain, partitions_of(plain, after), strict=True):
        if home % before != partition:
            raise TopicsError(f"a changelog has a row in a wrong partition, {partition}")
        by_home[home].append((key, rows[key]))
    for key in rows.keys() - plain:
        kept_at = _home_of_reserved(partition, key, after)
        if kept_at is not None:
            by_home[kept_at].append((key, rows[key]))
    return by_home


def _home_of_reserved(partition: int, key: bytes, after: int) -> int | None:
    if key in (MARKER_KEY, RECENT_KEY):
        return None
    if key.startswith(LETTERS_PREFIX):
        return partition_of(key.removeprefix(LETTERS_PREFIX), after)
    if key.startswith((OUTCOMES_PREFIX, MOVES_PREFIX)):
        # They speak of offsets, which stay where they are.
        return partition
    raise TopicsError("a changelog has rows of a newer version")


def recent_of(home: int, recent: bytes, after: int) -> bytes:
    """Return of a partition's newest registrations those that belong to one it is split into.

    Those that were erased have no id, and keep their time everywhere: how far back the others go
    must not seem further.
    """
    return dumps(
        [
            (at, user_id)
            for at, user_id in orjson.loads(recent)
            if not user_id or partition_of(user_id.encode(), after) == home
        ]
    )
