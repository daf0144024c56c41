"""Unpacks request bodies as they come: gzip (RFC 1952) and zstd (RFC 8878).

A few bytes can hold very many. So a body is unpacked in small pieces, others have the event loop
between them, and what is too much ends it before it is there. A body may be several members (zstd:
frames), one behind the other. It is malformed if anything else follows, or if its end is missing.
"""

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from backports import zstd

from app.web.http.problems import ProblemError

#: So many packed bytes are taken at a time, and so many unpacked ones are given on.
SLICE_BYTES, PIECE_BYTES = 4 * 1024, 64 * 1024
#: A body may unpack to so many times its size (rows of registrations: 4 to 65 times); it may be
#: more as long as it is small. Apache's httpd has the same limit.
MAX_RATIO, RATIO_FREE_BYTES = 200, 1024 * 1024
#: How far back zstd may refer, and so what unpacking a stream takes: as RFC 9659 has it for HTTP.
ZSTD_WINDOW_LOG = 23

_CLOSE = {"Connection": "close"}


class _Unpacks(Protocol):
    """Unpacks one member, as the decompressors of Python's library do."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Coding(NamedTuple):
    """A way to pack bodies: its name, what unpacks a member, and what this takes of a stream."""

    name: str
    new: Callable[[], _Unpacks]
    memory_bytes: int


class _GzipMember:
    """zlib's decompressor, used as the others are."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length
        return piece


def _zstd_frame() -> zstd.ZstdDecompressor:
    most: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
    return zstd.ZstdDecompressor(options=most)


_GZIP = Coding("gzip", _GzipMember, 64 * 1024)
#: By the names that ``Content-Encoding`` has for them.
CODINGS: Mapping[str, Coding] = {
    "gzip": _GZIP,
    "x-gzip": _GZIP,
    "zstd": Coding("zstd", _zstd_frame, 1 << ZSTD_WINDOW_LOG),
}


async def unpacked(packed: AsyncIterable[bytes], coding: Coding) -> AsyncIterator[bytes]:
    """Yield what a body holds, in pieces; raise the problem of one that is broken, or a bomb."""
    body = _Body(coding)
    taken = given = 0
    async for part in packed:
        for at in range(0, len(part), SLICE_BYTES):
            some = part[at : at + SLICE_BYTES]
            taken += len(some)
            for piece in body.unpack(some):
                given += len(piece)
                if given > max(MAX_RATIO * taken, RATIO_FREE_BYTES):
                    told = f"A body may unpack to {MAX_RATIO} times its size."
                    raise ProblemError(413, "too-large", told, headers=_CLOSE)
                yield piece
                await asyncio.sleep(0)
            # Members may hold nothing, and there may be many of them.
            await asyncio.sleep(0)
    if not body.is_whole:
        raise ProblemError(400, "malformed", f"The {coding.name} body ends too early.")


class _Body:
    """The members of a body, one behind the other."""

    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._member = coding.new()

    @property
    def is_whole(self) -> bool:
        """Whether no member is begun. Nothing at all is none."""
        return self._member.eof

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        """Yield what some more of the body holds."""
        try:
            while packed or not (self._member.eof or self._member.needs_input):
                if self._member.eof:
                    self._member = self._coding.new()
                if piece := self._member.decompress(packed, PIECE_BYTES):
                    yield piece
                packed = self._member.unused_data if self._member.eof else b""
        except (zlib.error, zstd.ZstdError):
            told = f"The body is no valid {self._coding.name}."
            raise ProblemError(400, "malformed", told, headers=_CLOSE) from None
