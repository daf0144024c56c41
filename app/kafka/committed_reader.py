"""A consumer of aiokafka's that reads what is committed, outside of any group."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from aiokafka import AIOKafkaConsumer

from app.config.connection import Connection


@asynccontextmanager
async def committed_reader(
    connection: Connection, *, beyond: Literal["earliest", "none"]
) -> AsyncIterator[AIOKafkaConsumer]:
    """Read while the context lasts.

    Where the next offset is gone, it goes on with the earliest, or (``none``) raises
    `aiokafka.errors.OffsetOutOfRangeError`.
    """
    consumer = AIOKafkaConsumer(
        **connection.client(),
        enable_auto_commit=False,
        auto_offset_reset=beyond,
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()
