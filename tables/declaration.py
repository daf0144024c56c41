"""What all tables have in common: a Faust table of raw bytes, written by transactions."""

from typing import cast

import faust

from app.engine.assignment import TableManager
from app.engine.changelog import Changelog
from app.engine.marker import rules
from app.engine.partitions import AppliedTable
from app.settings import settings
from app.topics import TopicSpec
from tables.store import PartitionedStore


def declare(
    app: faust.App, name: str, changelog: TopicSpec, sources: tuple[TopicSpec, ...], help: str
) -> PartitionedStore:
    """Declare a table, its changelog named explicitly, and the topics it is made from.

    Return its store, for reading; rows are written by the partitions of the engine alone.
    """
    table = app.Table(
        name,
        key_type=bytes,
        value_type=bytes,
        partitions=changelog.partitions,
        help=help,
        changelog_topic=app.topic(
            changelog.name,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=changelog.partitions,
            compacting=True,
            acks=False,
            internal=True,
            allow_empty=True,
        ),
    )
    store = cast(PartitionedStore, table.data)
    cast(TableManager, app.tables).partitions.add(
        AppliedTable(
            name,
            tuple(source.name for source in sources),
            Changelog(changelog.name, store),
            store,
            rules(settings().email_keys),
        )
    )
    return store
