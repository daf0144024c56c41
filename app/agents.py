"""The loop: records of ``user-registrations`` in; rows, dead letters and moved records out.

Each batch of a partition is decided here and written by the engine in one transaction.
"""

from collections.abc import Sequence
from typing import cast

import structlog
from faust.types import StreamT

from app.dead_letters import DeadLetters
from app.engine.folding import Fold, FoldSchema
from app.engine.partitions import Changes
from app.engine.takeover import TableManager
from app.errors import UnreadableRecordError
from app.main import app, registry_topics
from app.positions import Position
from app.records import Outgoing, Registration, encode, encode_row, key_of
from app.registration import MOVED_FROM_HEADER, Arrival, new_rows, sort
from tables.recent import recent_registrations
from tables.users import users

log = structlog.get_logger(__name__)

_topic = registry_topics.user_registrations
_dead_letters = DeadLetters(_topic.name, registry_topics.dead_letter.name)
_partitions = cast(TableManager, app.tables).partitions

source = app.topic(_topic.name, schema=FoldSchema(), partitions=_topic.partitions, acks=False)


@app.agent(source, name="apply_registrations")
async def apply_registrations(folds: StreamT[Fold]) -> None:
    """Apply the records of ``user-registrations``, each partition by itself and in order."""
    async for fold in folds:
        _partitions.submit(fold, decide)


def decide(partition: int, arrivals: Sequence[Arrival], changes: Changes) -> None:
    """Add what comes of records of a partition, by the rows that there are and that came before."""
    batch = sort(partition, arrivals, _topic.partitions)
    new = new_rows(users.rows(partition, batch.keys, changes.rows), partition, batch)
    changes.rows.update((key, encode_row(row)) for key, row in new.items())
    changes.rows.update(recent_registrations.with_new(partition, new.values(), changes.rows))
    changes.outgoing.extend(
        _dead_letter(partition, arrival, error) for arrival, error in batch.unreadable
    )
    changes.outgoing.extend(
        _moved(partition, arrival, registration, home)
        for arrival, registration, home in batch.elsewhere
    )


def _dead_letter(partition: int, arrival: Arrival, error: UnreadableRecordError) -> Outgoing:
    position = Position(partition, arrival.offset).token()
    log.warning("dead letter", cause=error.cause, position=position)
    return _dead_letters.letter(partition, arrival, error)


def _moved(partition: int, arrival: Arrival, registration: Registration, home: int) -> Outgoing:
    # Sent as we would write it: what came may be too large once it is no longer compressed.
    position = Position(partition, arrival.offset)
    return Outgoing(
        _topic.name,
        home,
        key_of(registration),
        encode(registration),
        max(arrival.timestamp, 0),
        [(MOVED_FROM_HEADER, position.token().encode())],
    )
