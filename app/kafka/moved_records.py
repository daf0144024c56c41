"""Finds copies of records that were moved before, so that no record is moved twice.

A table with a new changelog is built from the beginning of its sources. Records there may have been
applied before (another APP_ID, or a changelog that was given up). Then a record in a wrong
partition is not sent again, because its copy would come behind newer records.
"""

import asyncio
import hashlib
from collections import defaultdict

import structlog
from faust.types import TP

from app.config.connection import Connection
from app.domain.consumed_records import ConsumedRecord
from app.domain.errors import BrokerUnavailableError, InvalidPositionError, NotWrittenError
from app.domain.parsing import MOVED_FROM_HEADER, Move
from app.domain.positions import Position
from app.kafka.partition_reader import reader
from app.kafka.topics import TopicSpec

log = structlog.get_logger(__name__)

_DIGEST_BYTES = 8


class MovedBefore:
    """Finds the copies of moved records, when they are needed first."""

    def __init__(self, connection: Connection, topic: TopicSpec) -> None:
        self._connection = connection
        self._topic = topic
        #: By the first place of a record: the copy's partition, its offset, and its content.
        self._copies: dict[int, dict[int, tuple[int, int, bytes]]] | None = None
        self._finding = asyncio.Lock()

    async def find(self, source: TP) -> None:
        """Find all copies, if a source is the topic that has them.

        Raises `NotWrittenError` if no broker answers, and `RegistryError` if none ever will.
        """
        if source.topic != self._topic.name:
            return
        async with self._finding:
            if self._copies is None:
                try:
                    self._copies = await self._read()
                except BrokerUnavailableError as error:
                    raise NotWrittenError(str(error)) from None

    def copy_of(self, partition: int, move: Move) -> int | None:
        """Return the offset of a record's copy in its right partition, if there is one.

        A header alone proves nothing: a copy must have the same content.
        """
        found = (self._copies or {}).get(partition, {}).get(move.arrival.offset)
        if found is None or found[0] != move.partition:
            return None
        return found[1] if found[2] == _digest(move.key, move.value) else None

    async def _read(self) -> dict[int, dict[int, tuple[int, int, bytes]]]:
        copies: defaultdict[int, dict[int, tuple[int, int, bytes]]] = defaultdict(dict)
        async with reader(self._connection, [self._topic]) as reading:
            for extent in await reading.extents(self._topic):
                async for records in reading.read(extent):
                    for record in records:
                        if record.headers and (origin := _origin_of(record)) is not None:
                            said = _digest(record.key, record.value)
                            copy = extent.partition, record.offset, said
                            copies[origin.partition].setdefault(origin.offset, copy)
        log.info("records were moved before", records=sum(map(len, copies.values())))
        return dict(copies)


def _origin_of(record: ConsumedRecord) -> Position | None:
    for name, value in record.headers:
        if name == MOVED_FROM_HEADER:
            try:
                return Position.parse((value or b"").decode())
            except (InvalidPositionError, UnicodeDecodeError):
                return None
    return None


def _digest(key: bytes | None, value: bytes | None) -> bytes:
    said = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in (key, value):
        said.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return said.digest()
