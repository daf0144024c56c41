"""Positions: the name that a record keeps for ever, as one opaque token."""

import base64
import binascii
import struct
from binascii import b2a_base64
from typing import NamedTuple, Self

from app.errors import InvalidPositionError

#: Version of the token, generation, partition, offset.
_LAYOUT = struct.Struct(">BHIQ")
_VERSION = 1
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

#: The generation of ``user-registrations`` that this release writes and reads.
CURRENT_GENERATION = 0


class Position(NamedTuple):
    """Where a record stands in ``user-registrations``, in which generation of the topic."""

    partition: int
    offset: int
    generation: int = CURRENT_GENERATION

    def token(self) -> str:
        """Return the position as 20 URL-safe characters; only equality means anything to others."""
        packed = _LAYOUT.pack(_VERSION, self.generation, self.partition, self.offset)
        return b2a_base64(packed, newline=False).translate(_URL_SAFE).decode()

    @classmethod
    def parse(cls, token: str) -> Self:
        """Return the position that a token names, or raise `InvalidPositionError`."""
        try:
            packed = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
            version, generation, partition, offset = _LAYOUT.unpack(packed)
        except (binascii.Error, ValueError, struct.error):
            raise InvalidPositionError("not a position token") from None
        if version != _VERSION:
            raise InvalidPositionError("a position token of another version")
        return cls(partition, offset, generation)
