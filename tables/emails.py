"""The table ``emails``: who holds an address, by the key of the address."""

from collections.abc import Sequence

from app.domain.email_claims import Holder, decode_holder
from app.kafka.transactions import Rows
from tables.store import PartitionedStore


class Emails:
    """Typed reading of the rows of ``emails``."""

    def __init__(self, store: PartitionedStore) -> None:
        self.store = store

    def find(self, partition: int, email_key: bytes) -> Holder | None:
        """Return who holds an address, whose key must belong to the partition."""
        stored = self.store.read(partition, email_key)
        return None if stored is None else decode_holder(stored)

    def rows(self, partition: int, keys: Sequence[bytes], pending: Rows) -> dict[bytes, Holder]:
        """Return the rows that keys have, by key: in the store, or pending to be written there."""
        return {
            key: decode_holder(row)
            for key, row in self.store.with_pending(partition, keys, pending).items()
        }


#: Its name: in the changelog's, in the transactional ids, on disk.
EMAILS = "emails"
