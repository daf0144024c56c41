"""The table ``users``: one row for each user, by id."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge

from app.domain.keys import encode_key
from app.domain.records import User, UserRow, decode_rows, public
from app.engine.marker import RESERVED_PREFIX
from app.kafka.transactions import Rows
from tables.store import PartitionedStore


class Users:
    """Typed reading of the rows of ``users``."""

    def __init__(self, store: PartitionedStore, topic: str) -> None:
        self.store = store
        #: The topic whose records make the users.
        self.topic = topic

    def find(self, partition: int, user_id: str) -> User | None:
        """Return the user under an id, which must belong to the partition."""
        stored = self.store.read(partition, encode_key(user_id))
        return None if stored is None else public(stored)

    def find_many(self, partition: int, user_ids: Iterable[str]) -> list[User]:
        """Return those of the users that exist."""
        stored = self.store.read_many(partition, list(map(encode_key, user_ids)))
        return [public(row) for row in stored if row is not None]

    def in_order(
        self, partitions: Iterable[int], prefix: str = "", after_id: str | None = None
    ) -> Iterator[User]:
        """Yield the users whose ids begin so, in the order of the ids: those after an id.

        Nothing is read before it is asked for.
        """
        first = encode_key(prefix)
        # No UTF-8 text has this byte: what is above it no id begins with.
        end = first + RESERVED_PREFIX
        if after_id is not None:
            first = max(first, encode_key(after_id) + b"\0")
        rows = (self.store.rows_between(partition, first, end) for partition in partitions)
        return (public(row) for _, row in merge(*rows))

    def rows(self, partition: int, keys: Sequence[bytes], pending: Rows) -> dict[bytes, UserRow]:
        """Return the rows that keys have, by key: in the store, or pending to be written there."""
        stored = self.store.with_pending(partition, keys, pending)
        return dict(zip(stored, decode_rows(stored.values()), strict=True))


#: Its name: in the changelog's, in the transactional ids, on disk.
USERS = "users"
