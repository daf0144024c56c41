"""Positions and sets of offsets, by the million, and how they are printed."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from app.domain.errors import InvalidPositionError
from app.domain.positions import CURRENT_GENERATION, Position

#: In place of an offset: no record of the partition is the cause.
NOWHERE = 2**63


def place(topic: str, partition: int, offset: int) -> str:
    """Return the place of a record as text."""
    return f"{topic} {partition}:{offset}"


def named(token: str | bytes | None, partitions: int) -> Position | None:
    """Return the position of a token; None if it is not a position of this registry."""
    try:
        position = Position.parse(token.decode() if isinstance(token, bytes) else token or "")
    except (InvalidPositionError, UnicodeDecodeError):
        return None
    ours = position.generation == CURRENT_GENERATION and position.partition < partitions
    return position if ours else None


@dataclass(frozen=True, slots=True)
class Span:
    """The records of a partition that were decided: from the log's start to before ``until``."""

    topic: str
    partition: int
    start: int
    until: int

    def __contains__(self, offset: int) -> bool:
        return self.start <= offset < self.until

    def place(self, offset: int) -> str:
        """Return the place of a record of the partition as text."""
        if offset == NOWHERE:
            return f"{self.topic} {self.partition}, from before it was split off"
        return place(self.topic, self.partition, offset)


class Offsets:
    """Many offsets of one partition, eight bytes each."""

    def __init__(self, offsets: Iterable[int] = ()) -> None:
        self.all = array("Q", offsets)

    def add(self, offset: int) -> None:
        """Add an offset."""
        self.all.append(offset)
