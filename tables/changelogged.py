"""A table as the agents use it: rows by partition, in the changelog before they are in the store.

Stock Faust puts a row into the store first and sends the changelog record some time later; a crash
between the two, or a send that fails silently, leaves a row that the changelog will never have.
Here a row is in the changelog, acknowledged, before the store has it. What a crash interrupts is
decided again from the topic, or recovered from the changelog: either way nothing is missing.
"""

import asyncio
from collections.abc import Mapping
from typing import cast

import faust

from app.producer import SendsRecords
from app.topics import TopicSpec
from tables.store import PartitionedStore, Rows

Table = faust.Table[bytes, bytes]


def declare(app: faust.App, name: str, changelog: TopicSpec, help: str) -> Table:
    """Return a Faust table of raw bytes, with its changelog named explicitly."""
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
            # Changelog records are not acknowledged, so the queue holds what recovery reads ahead.
            maxsize=131_072,
        ),
    )
    return cast(Table, table)


def store_of(table: Table) -> PartitionedStore:
    """Return the table's store, typed."""
    return cast(PartitionedStore, table.data)


async def write(producer: SendsRecords, table: Table, partition: int, rows: Rows) -> None:
    """Write rows (None deletes) of one partition: changelog, acknowledgement, then the store."""
    if not rows:
        return
    offsets = await _log(producer, table, partition, rows)
    store_of(table).apply(partition, rows, max(offsets))


async def _log(
    producer: SendsRecords, table: Table, partition: int, rows: Mapping[bytes, bytes | None]
) -> list[int]:
    topic = table.changelog_topic.get_topic_name()
    async with asyncio.TaskGroup() as sending:
        sent = [
            sending.create_task(producer.send(topic, partition, key, row))
            for key, row in rows.items()
        ]
    return [task.result() for task in sent]
