"""Unpacks the record batches of a fetch within bounded memory.

Nearly every batch is small, and aiokafka's compiled parser reads it. A larger batch, or one on
which that parser fails, is unpacked in pieces and read by the parser below. That parser returns
every record: one with a header name that is not UTF-8, or that is too large, is an
`UnreadableRecord`.

The format: https://kafka.apache.org/documentation/#recordbatch, of Kafka 0.11 and later.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, dropwhile, islice
from struct import Struct
from typing import Any, NamedTuple

import cramjam
import lz4.frame
from aiokafka.record.default_records import DefaultRecordBatch
from backports import zstd

from app.domain.consumed_records import (
    FALSE_OFFSET,
    TOO_LARGE,
    UNREADABLE_HEADER,
    UNREADABLE_RECORD,
    ConsumedRecord,
    UnreadableRecord,
)
from app.domain.errors import CorruptBatchError

#: A batch that unpacks to less is unpacked as a whole.
MAX_UNPACKED_BYTES = 4 * 1024 * 1024
#: A larger batch is unpacked in pieces of this size.
PIECE_BYTES = 256 * 1024
#: A larger record is never kept in memory. It could not be applied anyway.
MAX_RECORD_BYTES = 8 * 1024 * 1024

#: base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and greatest
#: timestamp, producer id, epoch, first sequence, count.
_HEADER = Struct(">qiibIhiqqqhii")
#: The length does not include the base offset and the length itself.
_LENGTH_STARTS = 12
_ATTRIBUTES_AT, _ATTRIBUTES = 21, Struct(">h")
_CODEC, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4
#: The key of a control record: version, type. This type ends a transaction as aborted.
_CONTROL_KEY, _ABORT = Struct(">hh"), 0
_GZIP_MAGIC = b"\x1f\x8b"
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_BLOCK_SIZE = Struct(">i")
#: Three bytes of Snappy unpack to at most 64 bytes.
_SNAPPY_MOST = 22
#: A varint has at most ten bytes, of seven bits each.
_VARINT_BITS = 70


class _Record(NamedTuple):
    """A record that the parser of this module has read."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class AbortedTransactions:
    """The aborted transactions of one fetch, as batches are passed in their order.

    If a fetch is read in several parts, the parts share it.
    """

    def __init__(self, aborted: Iterable[tuple[int, int]] = ()) -> None:
        """``aborted``: the producer and the first offset of each."""
        #: Transactions that begin later, the next one last; and producers inside an aborted
        #: transaction.
        self._waiting = sorted(aborted, key=lambda each: each[1], reverse=True)
        self._inside: set[int] = set()

    def leaves_out(self, base: int, attributes: int, producer: int, data: memoryview) -> bool:
        """Return whether a batch is a control batch, or part of an aborted transaction."""
        while self._waiting and self._waiting[-1][1] <= base:
            self._inside.add(self._waiting.pop()[0])
        if attributes & _CONTROL:
            if _ends_aborted(data):
                self._inside.discard(producer)
            return True
        return bool(attributes & _TRANSACTIONAL) and producer in self._inside


class PartitionRecords:
    """The committed records in the bytes that a fetch returned, taken in pieces."""

    def __init__(
        self,
        data: memoryview | bytes,
        start: int,
        aborted: AbortedTransactions | None = None,
        max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
    ) -> None:
        self._data = memoryview(data)
        self._at = 0
        #: The next offset to take. Control records and gaps count.
        self.next_offset = start
        self._aborted = aborted or AbortedTransactions()
        self._max_unpacked_bytes = max_unpacked_bytes
        self._batch: _Batch | None = None
        #: The bytes that the last call of `take` did not use. Records count unpacked.
        self.bytes_left = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing is left.

        A batch that is cut off at the end of the fetch does not count.
        """
        return self._batch is None and self._next_header() is None

    @property
    def size(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def take(self, max_records: int, max_bytes: int) -> list[ConsumedRecord]:
        """Take the next records: at least one if there is one, and about as many as fit the bytes.

        If only control records are left, the list is empty and `next_offset` moves. Raises
        `CorruptBatchError`.
        """
        taken: list[ConsumedRecord] = []
        self.bytes_left = max_bytes
        while len(taken) < max_records and max_bytes > 0:
            if self._batch is None:
                self._batch = self._open_next()
                if self._batch is None:
                    break
            some, max_bytes = self._batch.take(
                max_records - len(taken), max_bytes, self.next_offset
            )
            taken += some
            self.bytes_left = max_bytes
            if self._batch.is_exhausted:
                self.next_offset = max(self.next_offset, self._batch.next_offset)
                self._batch = None
            elif some:
                self.next_offset = some[-1].offset + 1
        return taken

    def _next_header(self) -> tuple[int, ...] | None:
        if self._at + _HEADER.size > len(self._data):
            return None
        header = _HEADER.unpack_from(self._data, self._at)
        return None if self._at + _LENGTH_STARTS + header[1] > len(self._data) else header

    def _open_next(self) -> "_Batch | None":
        """Open the next batch that has committed records; skip the others."""
        while (header := self._next_header()) is not None:
            base, length, _, magic, _, attributes, last_delta, first, greatest = header[:9]
            producer, count = header[9], header[12]
            data = self._data[self._at : self._at + _LENGTH_STARTS + length]
            self._at += len(data)
            if base + last_delta < self.next_offset and not attributes & _CONTROL:
                continue
            if magic != 2:
                raise CorruptBatchError(f"the batch at offset {base} has the old format {magic}")
            whole = DefaultRecordBatch(bytes(data))
            if not whole.validate_crc():
                raise CorruptBatchError(f"the batch at offset {base} is damaged: wrong checksum")
            if self._aborted.leaves_out(base, attributes, producer, data):
                self.next_offset = max(self.next_offset, base + last_delta + 1)
                continue
            appended_at = greatest if attributes & _LOG_APPEND_TIME else None
            place = _Place(base, base + last_delta + 1, first, appended_at, count)
            return _Batch(place, data, whole, self._max_unpacked_bytes, self.next_offset)
        return None


def _ends_aborted(data: memoryview) -> bool:
    """Return whether a control batch ends a transaction as aborted."""
    record = next(_parse(_Whole(bytes(data[_HEADER.size :])), _Place(0, 1, 0, None, 1)), None)
    key = b"" if record is None else record.key or b""
    return len(key) >= _CONTROL_KEY.size and _CONTROL_KEY.unpack_from(key)[1] == _ABORT


class _Place(NamedTuple):
    """Base offset and base time of a batch. The records have relative ones."""

    base_offset: int
    next_offset: int
    first_timestamp: int
    #: The time of all its records, if the broker sets it.
    appended_at: int | None
    #: How many records there are.
    records: int

    @property
    def is_whole(self) -> bool:
        """Whether no record was compacted away, so that each offset follows from the place."""
        return self.records == self.next_offset - self.base_offset


class _Batch:
    """One batch, from which records are taken."""

    def __init__(
        self, place: _Place, data: memoryview, whole: DefaultRecordBatch, max_bytes: int, start: int
    ) -> None:
        self.next_offset = place.next_offset
        self.is_exhausted = False
        self._place = place
        self._data = data
        self._codec = _ATTRIBUTES.unpack_from(data, _ATTRIBUTES_AT)[0] & _CODEC
        self._is_fast = False
        #: The offset of the next record, if the batch is whole.
        self._next = place.base_offset
        self._mean_bytes = 1.0
        self._records: Iterator[ConsumedRecord] = self._slowly()
        size: int | None = len(data)
        if self._codec and (content := self._unpacked(max_bytes)) is not None:
            size, whole = len(content), _uncompressed(data, content)
        elif self._codec:
            size = None
        if size is not None and size <= max_bytes:
            # Like `islice`, aiokafka's iterator can be used only once.
            self._is_fast, self._records = True, chain.from_iterable((whole,))
            self._next = max(place.base_offset, start)
            if place.base_offset < start:
                self._records = dropwhile(lambda record: record.offset < start, self._records)
            self._mean_bytes = size / max(_HEADER.unpack_from(data)[-1], 1)

    def take(
        self, max_records: int, max_bytes: int, start: int
    ) -> tuple[list[ConsumedRecord], int]:
        """Return the next records from an offset on, and how many bytes may still be taken."""
        if self._is_fast:
            try:
                return self._take_fast(max_records, max_bytes)
            except CorruptBatchError:
                raise
            except Exception:
                # aiokafka's parser takes some valid records for damaged, and cannot continue.
                self._is_fast, self._records = False, self._slowly()
        return self._take_slowly(max_records, max_bytes, start)

    def _take_fast(self, max_records: int, max_bytes: int) -> tuple[list[ConsumedRecord], int]:
        # By their mean size. All records together are no more than may be unpacked.
        most = min(max_records, int(max_bytes / self._mean_bytes) + 1)
        records = list(islice(self._records, most))
        self._require_places([record.offset for record in records])
        self.is_exhausted = len(records) < most
        max_bytes -= int(len(records) * self._mean_bytes)
        return records, max_bytes

    def _require_places(self, offsets: list[int]) -> None:
        """Raise `ValueError` for impossible offsets: brokers store what producers send."""
        following = self._next + len(offsets)
        if self._place.is_whole:
            if offsets != list(range(self._next, following)):
                raise ValueError("false offsets")
            self._next = following
        elif any(not self._next <= offset < self._place.next_offset for offset in offsets):
            raise ValueError("false offsets")

    def _take_slowly(
        self, max_records: int, max_bytes: int, start: int
    ) -> tuple[list[ConsumedRecord], int]:
        records: list[ConsumedRecord] = []
        while len(records) < max_records and max_bytes > 0:
            record = next(self._records, None)
            if record is None:
                self.is_exhausted = True
                break
            if record.offset >= start:
                records.append(record)
                max_bytes -= _size_of(record)
        return records, max_bytes

    def _slowly(self) -> Iterator[ConsumedRecord]:
        return _parse(self._content(), self._place)

    def _content(self) -> "_Whole | _Pieces":
        packed = self._data[_HEADER.size :]
        return _Pieces(_pieces(self._codec, packed)) if self._codec else _Whole(bytes(packed))

    def _unpacked(self, max_bytes: int) -> bytes | None:
        """Return the content of a compressed batch; None if it is too large to unpack at once."""
        pieces, size = [], 0
        with suppress(Exception):  # what can be read of it, the slow way reads
            for piece in _pieces(self._codec, self._data[_HEADER.size :]):
                pieces.append(piece)
                size += len(piece)
                if size > max_bytes:
                    return None
            return b"".join(pieces)
        return None


def _size_of(record: ConsumedRecord) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _uncompressed(data: memoryview, content: bytes) -> DefaultRecordBatch:
    """Return a batch as if it had not been compressed."""
    (attributes,) = _ATTRIBUTES.unpack_from(data, _ATTRIBUTES_AT)
    header = bytearray(data[: _HEADER.size])
    _ATTRIBUTES.pack_into(header, _ATTRIBUTES_AT, attributes & ~_CODEC)
    return DefaultRecordBatch(bytes(header) + content)


# -- unpacking


def unpacks_to_at_most(data: bytes | memoryview, max_bytes: int) -> bool:
    """Return whether a batch unpacks to at most so many bytes."""
    codec = _ATTRIBUTES.unpack_from(data, _ATTRIBUTES_AT)[0] & _CODEC
    if not codec:
        return len(data) <= max_bytes
    size = 0
    with suppress(Exception):  # what cannot be unpacked is for others to say
        for piece in _pieces(codec, memoryview(data)[_HEADER.size :]):
            size += len(piece)
            if size > max_bytes:
                return False
    return True


def _pieces(codec: int, packed: memoryview) -> Iterator[bytes]:
    """Yield the content of compressed bytes, in pieces of bounded size."""
    if codec == _GZIP:
        yield from _gzip_pieces(packed)
    elif codec == _SNAPPY:
        yield from _snappy_pieces(packed)
    elif codec == _LZ4:
        yield from _frame_pieces(packed, lz4.frame.LZ4FrameDecompressor)
    elif codec == _ZSTD:
        yield from _frame_pieces(packed, zstd.ZstdDecompressor)
    else:
        raise ValueError(f"codec {codec}")


def _gzip_pieces(packed: memoryview) -> Iterator[bytes]:
    left = bytes(packed)
    while left.startswith(_GZIP_MAGIC):  # what follows the last stream does not count
        unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while not unpacking.eof:
            piece = unpacking.decompress(left, PIECE_BYTES)
            left = unpacking.unconsumed_tail
            if not piece and not left and not unpacking.eof:
                raise EOFError
            yield piece
        left = unpacking.unused_data


def _frame_pieces(packed: memoryview, new: Callable[[], Any]) -> Iterator[bytes]:
    left = bytes(packed)
    magic = left[:4]
    while left.startswith(magic):  # what follows the last frame does not count
        unpacking = new()
        piece = unpacking.decompress(left, PIECE_BYTES)
        while True:
            yield piece
            if unpacking.eof:
                break
            if unpacking.needs_input:
                raise EOFError
            piece = unpacking.decompress(b"", PIECE_BYTES)
        left = unpacking.unused_data or b""


def _snappy_pieces(packed: memoryview) -> Iterator[bytes]:
    # Blocks of Snappy are small, or grow to at most about twenty times their size.
    if bytes(packed[: len(_XERIAL)]) != _XERIAL:
        yield _unsnapped(packed)
        return
    at = _XERIAL_HEADER_BYTES
    while at < len(packed):
        (size,) = _BLOCK_SIZE.unpack_from(packed, at)
        at += _BLOCK_SIZE.size
        yield _unsnapped(packed[at : at + size])
        at += size


def _unsnapped(block: memoryview) -> bytes:
    """Return the content of a block. Its size is checked first, because that much is allocated."""
    if cramjam.snappy.decompress_raw_len(block) > len(block) * _SNAPPY_MOST:
        raise ValueError("the size cannot be true")
    return bytes(cramjam.snappy.decompress_raw(block))


# -- parsing


class _Whole:
    """Content that is in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes; fewer at the end."""
        found = self._content[self._at : self._at + size]
        self._at += len(found)
        return found


class _Pieces:
    """Content that is unpacked as it is read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._here = bytearray()

    def read(self, size: int) -> bytes:
        """Return the next bytes; fewer at the end."""
        while len(self._here) < size and (piece := next(self._pieces, None)) is not None:
            self._here += piece
        found = bytes(self._here[:size])
        del self._here[:size]
        return found


def _parse(content: _Whole | _Pieces, place: _Place) -> Iterator[ConsumedRecord]:
    """Yield the records of a batch with their offsets; bytes behind them are ignored.

    If a record cannot be parsed, this one and all later ones are unreadable.
    """
    number = 0
    try:
        for number in range(place.records):
            yield _at_its_place(_parse_next(content, place), place, number)
        if not place.is_whole and content.read(1):
            raise ValueError("there are more records than were counted")
    # Decompression raises many kinds of errors.
    except Exception as error:
        if not place.is_whole:
            raise CorruptBatchError(
                f"the batch at offset {place.base_offset} cannot be read ({type(error).__name__})"
            ) from None
        at = place.first_timestamp if place.appended_at is None else place.appended_at
        for offset in range(place.base_offset + number, place.next_offset):
            yield UnreadableRecord(offset, at, None, b"", (), UNREADABLE_RECORD, 0)


def _parse_next(content: _Whole | _Pieces, place: _Place) -> ConsumedRecord:
    length = _read_length(content)
    if length > MAX_RECORD_BYTES:
        return _too_large(content, length, place)
    body = content.read(length)
    if len(body) < length:
        raise EOFError
    return _parse_record(body, place)


def _at_its_place(record: ConsumedRecord, place: _Place, number: int) -> ConsumedRecord:
    """Return a record with its real offset: a client may have written another one into it."""
    offset = place.base_offset + number
    if record.offset == offset:
        return record
    if not place.is_whole:
        if place.base_offset <= record.offset < place.next_offset:
            return record
        raise ValueError("a record says that it stands elsewhere")
    size = len(record.key or b"") + len(record.value or b"")
    return UnreadableRecord(
        offset, record.timestamp, record.key, record.value, record.headers, FALSE_OFFSET, size
    )


def _read_length(content: _Whole | _Pieces) -> int:
    value = shift = 0
    while shift < _VARINT_BITS:
        byte = content.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            if value & 1:
                raise ValueError("a record has a negative length")
            return value >> 1
        shift += 7
    raise ValueError("a varint has no end")


def _too_large(content: _Whole | _Pieces, length: int, place: _Place) -> UnreadableRecord:
    """Skip a record that is too large; return its place and time."""
    begin = content.read(PIECE_BYTES)
    left = length - len(begin)
    while left > 0:
        passed = content.read(min(left, PIECE_BYTES))
        if not passed:
            raise EOFError
        left -= len(passed)
    timestamp_delta, at = _varint(begin, 1)
    offset_delta, _ = _varint(begin, at)
    at_ms = place.first_timestamp + timestamp_delta
    return UnreadableRecord(
        place.base_offset + offset_delta,
        at_ms if place.appended_at is None else place.appended_at,
        None,
        b"",
        (),
        TOO_LARGE,
        length,
    )


def _parse_record(body: bytes, place: _Place) -> ConsumedRecord:
    timestamp_delta, at = _varint(body, 1)  # behind the attributes, of which none is used
    offset_delta, at = _varint(body, at)
    key, at = _read_bytes(body, at)
    value, at = _read_bytes(body, at)
    count, at = _varint(body, at)
    # As aiokafka's parser does: a header without a value has None.
    headers: list[Any] = []
    is_text = True
    for _ in range(count):
        name, at = _read_bytes(body, at)
        header, at = _read_bytes(body, at)
        is_text = is_text and _is_utf8(name or b"")
        headers.append(((name or b"").decode(errors="surrogateescape"), header))
    timestamp = place.first_timestamp + timestamp_delta
    if place.appended_at is not None:
        timestamp = place.appended_at
    offset = place.base_offset + offset_delta
    if is_text:
        return _Record(offset, timestamp, key, value, headers)
    return UnreadableRecord(offset, timestamp, key, value, headers, UNREADABLE_HEADER, len(body))


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_bytes(body: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = _varint(body, at)
    if size < 0:
        return None, at
    if at + size > len(body):
        raise EOFError
    return body[at : at + size], at + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a zigzag varint, and where it ends."""
    value = shift = 0
    while shift < _VARINT_BITS:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    raise ValueError("a varint has no end")
