"""The spool: files that take writes while the broker is away; they are sent when it is back.

Off unless SPOOL_MIB is set. A write is answered once it is synced to this worker's disk; from then
on everything goes through the spool until it is empty, so that no write overtakes another one. What
a crash interrupts is sent again from the last file that was not sent wholly: each write arrives at
least once. See docs/decisions/spool.md.
"""

import asyncio
import os
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import orjson
import structlog
from mode import Service
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from app.engine.lean import NO_HEADERS, ToWrite
from app.errors import (
    BrokerUnavailableError,
    OutcomeOpenError,
    OutcomeUnknownError,
    OverloadedError,
    RefusedError,
    RegistryError,
)
from app.gathering import Offsets
from app.metrics import SPOOLED_BYTES, WRITES_SPOOLED
from app.positions import SPOOLED
from app.producer import SendsRecords

log = structlog.get_logger(__name__)

#: A file is ended when it is as large as this, and removed when all of it was sent.
MAX_FILE_BYTES = 4 * 1024 * 1024
#: Records that are sent together.
CHUNK_RECORDS = 500
#: The first and the longest pause between two attempts to send; they double, and vary.
RETRY_SECONDS = (0.1, 1.0)

#: Of these a write may be sent again. Where it is open what became of one, the producer takes no
#: write of its partition before that one is fenced.
_NOT_TAKEN = (BrokerUnavailableError, OutcomeOpenError, OutcomeUnknownError)
_TRIED_AGAIN = (*_NOT_TAKEN, RefusedError)

#: A record as it is kept: its partition, key and value.
Kept = tuple[int, bytes, bytes | None]


class SpoolFiles:
    """The files: each line is a record, behind its checksum."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: Path | None = None

    def names(self) -> list[Path]:
        """Return the files, the oldest first."""
        return sorted(self._folder.glob("*.spool"))

    def size(self) -> int:
        """Return the bytes that all files have."""
        return sum(path.stat().st_size for path in self.names())

    def append(self, lines: bytes) -> None:
        """Add lines, and return once they are on the disk; raise `OSError` if they may not be."""
        path = self._open or self._next()
        try:
            with open(path, "ab", opener=_private) as file:
                begin = file.tell()
                try:
                    file.write(lines)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    _undo(path, begin)
                    raise
                size = file.tell()
            if self._open is None:
                _sync_folder(self._folder)
        except OSError:
            self._open = None
            raise
        self._open = path if size < MAX_FILE_BYTES else None

    def _next(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        last = self.names()[-1:]
        number = int(last[0].stem) + 1 if last else 1
        return self._folder / f"{number:012}.spool"

    def read(self, path: Path) -> Iterator[Kept]:
        """Yield the records of a file; what a crash cut off was never acknowledged."""
        for line in path.read_bytes().splitlines():
            kept = decode(line)
            if kept is None:
                log.warning("a line of the spool is not whole, and skipped", file=path.name)
            else:
                yield kept

    def ended(self) -> list[Path]:
        """Return the files, the oldest first; nothing is added to them any more."""
        self._open = None
        return self.names()

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()
        _sync_folder(self._folder)


def encode(kept: Kept) -> bytes:
    """Return a record as a line."""
    partition, key, value = kept
    body = orjson.dumps([partition, key.decode(), None if value is None else value.decode()])
    return b"%08x %b\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> Kept | None:
    """Return the record in a line, or None if the line is not whole."""
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    partition, key, value = orjson.loads(body)
    return partition, key.encode(), None if value is None else value.encode()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _undo(path: Path, size: int) -> None:
    """Give a file the size back that it had; one that had none leaves nothing behind."""
    # Half a line would spoil the one after it.
    os.truncate(path, size)
    if not size:
        path.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Saving(NamedTuple):
    """Lines that wait to be synced, for so many records, and what to tell then or otherwise."""

    lines: bytes
    records: int
    offsets: Offsets
    otherwise: RegistryError


class Spool(Service):
    """Sends records as the producer does, and keeps those that the broker does not take now."""

    def __init__(self, producer: SendsRecords, folder: Path, max_bytes: int) -> None:
        super().__init__()
        self._producer = producer
        self._files = SpoolFiles(folder)
        self._max_bytes = max_bytes
        self._bytes = 0
        #: Whether anything is in the files, or on its way to them.
        self._is_used = False
        self._is_closed = False
        self._is_held = False
        #: Whether the disk has refused what was saved last; it is told once.
        self._is_disk_full = False
        self._saving: deque[_Saving] = deque()
        #: Held while files are added to, or ended.
        self._adding = asyncio.Lock()
        self._something_to_save = asyncio.Event()
        self._something_to_send = asyncio.Event()

    async def on_start(self) -> None:
        """Send what a worker before this one left, and take more."""
        self._bytes = self._files.size()
        SPOOLED_BYTES.set_function(lambda: self._bytes)
        if self._files.names():
            log.info("the spool is not empty: it is sent first", bytes=self._bytes)
            self._is_used = True
            self._something_to_send.set()
        self.add_future(self._save_all())
        self.add_future(self._send_all())

    # -- what comes in

    def refuse(self) -> None:
        """Take no more records: this worker stops."""
        self._is_closed = True

    def hold(self, *, are_held: bool) -> None:
        """Refuse records for a while, or take them again."""
        self._is_held = are_held

    def send(self, records: Mapping[int, Sequence[ToWrite]]) -> Mapping[int, Offsets]:
        """Return for each partition what will hold its records' offsets, or `SPOOLED` for each."""
        if self._is_closed:
            raise OverloadedError("this worker is stopping; another one takes the write")
        if self._is_held:
            raise OverloadedError("the registry is being repartitioned, or saved")
        if self._is_used:
            cause = BrokerUnavailableError("no broker takes records, and the spool is full")
            return {number: self._keep(number, some, cause) for number, some in records.items()}
        sent = self._producer.send(records)
        if not self._max_bytes:
            return sent
        return {number: self._or_keep(number, records[number], sent[number]) for number in sent}

    def _or_keep(self, number: int, records: Sequence[ToWrite], sent: Offsets) -> Offsets:
        told: Offsets = asyncio.get_running_loop().create_future()
        sent.add_done_callback(partial(self._sent, number, records, told))
        return told

    def _sent(self, number: int, records: Sequence[ToWrite], told: Offsets, sent: Offsets) -> None:
        error = sent.exception()
        if isinstance(error, _NOT_TAKEN):
            self._keep(number, records, error, told)
        elif told.done():
            pass  # who asked has gone
        elif error is not None:
            told.set_exception(error)
        else:
            told.set_result(sent.result())

    def _keep(
        self,
        number: int,
        records: Sequence[ToWrite],
        otherwise: RegistryError,
        told: Offsets | None = None,
    ) -> Offsets:
        told = told or asyncio.get_running_loop().create_future()
        lines = b"".join(encode((number, key or b"", value)) for _, key, value, _ in records)
        saving = _Saving(lines, len(records), told, otherwise)
        if self._bytes + len(lines) > self._max_bytes:
            _refuse(saving)
            return told
        self._bytes += len(lines)
        self._is_used = True
        self._saving.append(saving)
        self._something_to_save.set()
        return told

    async def _save_all(self) -> None:
        while not self.should_stop:
            await self._something_to_save.wait()
            self._something_to_save.clear()
            saving = list(self._saving)
            lines = b"".join(some.lines for some in saving)
            try:
                async with self._adding:
                    await asyncio.to_thread(self._files.append, lines)
            except OSError as error:
                if not self._is_disk_full:
                    log.error("the spool cannot be written", cause=error.strerror)
                self._is_disk_full = True
                self._bytes -= len(lines)
                told = _refuse
            else:
                self._is_disk_full = False
                told = _accept
            for some in saving:
                self._saving.popleft()
                told(some)
            self._something_to_send.set()

    # -- what goes out

    async def _send_all(self) -> None:
        while not self.should_stop:
            await self._something_to_send.wait()
            self._something_to_send.clear()
            async with self._adding:
                ended = self._files.ended()
            for path in ended:
                await self._send_file(path)
            if not self._saving and not self._files.names():
                self._is_used, self._bytes = False, 0
                log.info("the spool is empty")
            elif not self._saving:
                self._something_to_send.set()

    async def _send_file(self, path: Path) -> None:
        size = path.stat().st_size
        records = await asyncio.to_thread(lambda: list(self._files.read(path)))
        for begin in range(0, len(records), CHUNK_RECORDS):
            await self._send_surely(records[begin : begin + CHUNK_RECORDS])
        await asyncio.to_thread(self._files.remove, path)
        self._bytes -= size
        log.info("a file of the spool is sent", records=len(records))

    async def _send_surely(self, chunk: Sequence[Kept]) -> None:
        first, longest = RETRY_SECONDS
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(_TRIED_AGAIN),
            wait=wait_exponential_jitter(multiplier=first, max=longest, jitter=first),
        ):
            with attempt:
                by_partition: dict[int, list[ToWrite]] = {}
                for number, key, value in chunk:
                    by_partition.setdefault(number, []).append((None, key, value, NO_HEADERS))
                sent = self._producer.send(by_partition)
                await asyncio.wait(sent.values())
                for offsets in sent.values():
                    offsets.result()


def _accept(saving: _Saving) -> None:
    WRITES_SPOOLED.inc(saving.records)
    if not saving.offsets.done():
        saving.offsets.set_result([SPOOLED] * saving.records)


def _refuse(saving: _Saving) -> None:
    if not saving.offsets.done():
        saving.offsets.set_exception(saving.otherwise)
        saving.offsets.exception()
