"""The applied marker: the row of a changelog that says what is applied.

It is written last in each transaction, so that rows and marker can never disagree; a new owner of
the partition resumes where the marker says. Its key begins with a byte that no UTF-8 text has, as
do the keys of all rows that are no user's.
"""

from collections.abc import Mapping
from typing import Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

#: Row keys of users are UTF-8 and therefore never begin with this byte.
RESERVED_PREFIX = b"\xff"

MARKER_KEY = RESERVED_PREFIX + b"applied"


class Marker(BaseModel):
    """Which log this is, and the next offset to apply of each source topic."""

    model_config = ConfigDict(frozen=True)

    #: Drawn when the changelog was empty: a topic that was made anew has another.
    log: str
    next: Mapping[str, int]

    @classmethod
    def first(cls) -> Self:
        """Return the marker of a changelog that is empty."""
        return cls(log=uuid4().hex, next={})

    @classmethod
    def decode(cls, row: bytes) -> Self:
        """Return the marker in a row."""
        return cls.model_validate_json(row)

    def encode(self) -> bytes:
        """Return the marker as a row."""
        return self.model_dump_json().encode()

    def after(self, topic: str, offset: int) -> "Marker":
        """Return the marker once everything of a topic below an offset is applied."""
        return Marker(log=self.log, next={**self.next, topic: offset})
