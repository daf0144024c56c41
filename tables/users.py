"""The table ``users``: one row for each registered user, by id."""

from collections.abc import Mapping, Sequence

from app.keys import encode_key
from app.main import app, registry_topics
from app.producer import SendsRecords
from app.records import UserRow
from tables import changelogged


class Users:
    """Typed access to the rows of ``users``."""

    def __init__(self, table: changelogged.Table) -> None:
        self.table = table

    def find(self, partition: int, user_id: str) -> UserRow | None:
        """Return the user under an id, which must belong to the partition."""
        return _decode(changelogged.store_of(self.table).read(partition, encode_key(user_id)))

    def find_many(self, partition: int, user_ids: Sequence[str]) -> dict[str, UserRow]:
        """Return those of the users that exist, by id."""
        keys = [encode_key(user_id) for user_id in user_ids]
        stored = changelogged.store_of(self.table).read_many(partition, keys)
        decoded = zip(user_ids, map(_decode, stored), strict=True)
        return {user_id: row for user_id, row in decoded if row is not None}

    async def write(
        self, producer: SendsRecords, partition: int, rows: Mapping[str, UserRow]
    ) -> None:
        """Write rows of one partition, by id: to the changelog first, then to the store."""
        encoded = {encode_key(user_id): row.encode() for user_id, row in rows.items()}
        await changelogged.write(producer, self.table, partition, encoded)


def _decode(stored: bytes | None) -> UserRow | None:
    return None if stored is None else UserRow.model_validate_json(stored)


users = Users(
    changelogged.declare(
        app, "users", registry_topics.users_changelog, help="Registered users by id."
    )
)
