"""Positions: a permanent name of a record, as one opaque token."""

import base64
import binascii
import string
import struct
from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple, Self

from app.domain.errors import InvalidPositionError

#: Version of the token, generation, partition, offset.
_LAYOUT = struct.Struct(">BHIQ")
_VERSION = 1
_ALPHABET = f"{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}-_"
_ALPHABET_INDEX = {letter: index for index, letter in enumerate(_ALPHABET)}

#: A token, as a regular expression.
PATTERN = "[A-Za-z0-9_-]{20}"

#: The generation of ``user-registrations`` that this release writes and reads.
CURRENT_GENERATION = 0


def token(partition: int, offset: int, generation: int = CURRENT_GENERATION) -> str:
    """Return the token of a position."""
    # 15 bytes are exactly 20 characters. The last character is the lowest six bits of the offset.
    return _beginning(generation, partition, offset >> 6) + _ALPHABET[offset & 63]


def tokens(partition: int, offsets: Iterable[int]) -> list[str]:
    """Return the token of each offset of a partition: `token` for many, at a third of its cost."""
    found: list[str] = []
    for above_6_bits, some in groupby(offsets, (64).__rfloordiv__):
        begin = _beginning(CURRENT_GENERATION, partition, above_6_bits)
        found += [begin + _ALPHABET[offset & 63] for offset in some]
    return found


@lru_cache(maxsize=1024)
def _beginning(generation: int, partition: int, offset_above_6_bits: int) -> str:
    packed = _LAYOUT.pack(_VERSION, generation, partition, offset_above_6_bits << 6)
    return base64.urlsafe_b64encode(packed).decode()[:-1]


def offset_of(token: str) -> int:
    """Return the offset in a token of this release. `Position.parse` reads tokens of clients."""
    return _first_offset(token[:-1]) + _ALPHABET_INDEX[token[-1]]


@lru_cache(maxsize=1024)
def _first_offset(beginning: str) -> int:
    return int(_LAYOUT.unpack(base64.urlsafe_b64decode(beginning + "A"))[-1])


class Position(NamedTuple):
    """The place of a record in ``user-registrations``, and the generation of the topic."""

    partition: int
    offset: int
    generation: int = CURRENT_GENERATION

    def token(self) -> str:
        """Return the position as 20 URL-safe characters. Clients may compare them, nothing else."""
        return token(self.partition, self.offset, self.generation)

    @classmethod
    def parse(cls, token: str) -> Self:
        """Return the position of a token, or raise `InvalidPositionError`."""
        try:
            packed = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
            version, generation, partition, offset = _LAYOUT.unpack(packed)
        except (binascii.Error, ValueError, struct.error):
            raise InvalidPositionError("not a position token") from None
        if version != _VERSION:
            raise InvalidPositionError("a position token of another version")
        return cls(partition, offset, generation)
