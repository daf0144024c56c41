"""Packs requests and unpacks answers by hand, for what each cycle sends."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from struct import Struct
from typing import ClassVar, NamedTuple, TypeVar

from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.types import Schema
from faust.types import TP

INT16, INT32 = Struct(">h"), Struct(">i")
#: API key, version, correlation id, length of the client id.
_REQUEST_HEADER = Struct(">hhih")

_T = TypeVar("_T")


class PackedHeader(NamedTuple):
    """The header of a request, packed, or the part of an answer's header that is needed."""

    correlation_id: int
    packed: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes."""
        return self.packed


class PackedRequest(RequestStruct):
    """A request whose bytes are made before aiokafka sees it."""

    API_KEY: ClassVar[int] = -1
    API_VERSION: ClassVar[int] = -1
    RESPONSE_TYPE = Response
    SCHEMA = Schema()

    def __init__(self, packed: bytes) -> None:
        super().__init__()
        self.packed = packed

    def encode(self) -> bytes:
        """Return the bytes."""
        return self.packed

    def build_request_header(self, correlation_id: int, client_id: str) -> PackedHeader:
        """Return the header: aiokafka's own costs as much as a small request."""
        name = client_id.encode()
        head = _REQUEST_HEADER.pack(self.API_KEY, self.API_VERSION, correlation_id, len(name))
        return PackedHeader(correlation_id, head + name + b"\0" * self.FLEXIBLE_VERSION)

    def parse_response_header(self, read_buffer: BytesIO) -> PackedHeader:
        """Read the header of an answer, up to where the answer begins."""
        (correlation_id,) = INT32.unpack(read_buffer.read(4))
        if self.FLEXIBLE_VERSION:
            _, at = read_tags(read_buffer.getbuffer(), 4)
            read_buffer.seek(at)
        return PackedHeader(correlation_id)


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return an unsigned varint, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def read_tags(data: memoryview, at: int) -> tuple[Mapping[int, memoryview], int]:
    """Return the tags behind a struct, and where they end."""
    count, at = read_varint(data, at)
    tags = {}
    for _ in range(count):
        tag, at = read_varint(data, at)
        size, at = read_varint(data, at)
        tags[tag] = data[at : at + size]
        at += size
    return tags, at


def varint(value: int) -> bytes:
    """Return a number as an unsigned varint."""
    if value < 0x80:
        return bytes((value,))
    packed = bytearray()
    while value >= 0x80:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    packed.append(value)
    return bytes(packed)


def string(text: str) -> bytes:
    """Return a text behind its length in 16 bits."""
    encoded = text.encode()
    return INT16.pack(len(encoded)) + encoded


def compact_string(text: str | None) -> bytes:
    """Return a text, or null, in the newer encoding."""
    if text is None:
        return b"\0"
    encoded = text.encode()
    return varint(len(encoded) + 1) + encoded


def by_topic(partitions: Iterable[TP]) -> list[tuple[str, list[int]]]:
    """Return partitions as most requests want them: numbers by topic."""
    grouped: dict[str, list[int]] = {}
    for tp in partitions:
        grouped.setdefault(tp.topic, []).append(tp.partition)
    return list(grouped.items())


def pairs_by_topic(pairs: Iterable[tuple[TP, _T]]) -> dict[str, list[tuple[int, _T]]]:
    """Return what belongs to partitions as requests want it: number and value by topic."""
    grouped: dict[str, list[tuple[int, _T]]] = {}
    for tp, each in pairs:
        grouped.setdefault(tp.topic, []).append((tp.partition, each))
    return grouped
