"""Declares a Faust table of raw bytes that transactions write."""

from typing import cast

import faust

from app.engine.changelog import Changelog
from app.engine.partitions import AppliedTable, Partitions
from app.kafka.topics import TopicSpec
from tables.store import PartitionedStore, StoreOptions


def declare(
    app: faust.App,
    partitions: Partitions,
    name: str,
    changelog: TopicSpec,
    *,
    sources: tuple[TopicSpec, ...],
    rules: str,
    options: StoreOptions,
    help: str,
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
        options=options.as_mapping(),
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
    partitions.add(
        AppliedTable(
            name,
            tuple(source.name for source in sources),
            Changelog(changelog.name, store),
            store,
            rules,
        )
    )
    return store
