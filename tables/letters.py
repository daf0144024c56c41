"""Dead letters by the id that they name, so that an erasure finds them; rows of ``users``."""

import orjson

from app.domain.compact import dumps
from app.engine.marker import letters_key
from app.kafka.transactions import Rows
from tables.store import PartitionedStore

#: Positions that are remembered of one id: what floods the topic with one id has no more.
MAX_LETTERS = 1_000


class LettersById:
    """Typed access to the positions of dead letters that name an id."""

    def __init__(self, store: PartitionedStore) -> None:
        self._store = store

    def of(self, partition: int, user_id: str, pending: Rows) -> list[str]:
        """Return the positions of the letters that name an id."""
        key = letters_key(user_id)
        row = pending[key] if key in pending else self._store.read(partition, key)
        return [] if row is None else list(orjson.loads(row))

    def with_new(self, partition: int, user_id: str, position: str, pending: Rows) -> bytes:
        """Return the row of an id with one more letter."""
        return dumps([*self.of(partition, user_id, pending), position][-MAX_LETTERS:])
