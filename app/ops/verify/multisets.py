"""Multisets: compares written records with expected ones, without order.

Each entry has a hash of the content, the place, and the offset that it is about. This is 24 bytes,
so ten million entries take some hundred megabytes.
"""

from array import array
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import NamedTuple, Self

import numpy as np

_OFFSET_BITS = 48
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1


class Entry(NamedTuple):
    """The place of an entry, and the offset that it is about."""

    partition: int
    offset: int
    about: int


class Multiset:
    """Contents, each as often as it was added."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._places = array("Q")
        self._about = array("Q")
        self._sorted = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, said: Hashable, partition: int, offset: int, about: int = 0) -> None:
        """Add a content and its place."""
        # Python's own hash of texts: SipHash, with a key that only this process has.
        self.add_hash(hash(said), partition, offset, about)

    def add_hash(self, said: int, partition: int, offset: int, about: int = 0) -> None:
        """Add the hash of a content and its place."""
        self._hashes.append(said)
        self._places.append(partition << _OFFSET_BITS | offset)
        self._about.append(about)

    def has(self, said: Hashable) -> bool:
        """Return whether a content is there. Add nothing between many such questions."""
        if len(self._sorted) != len(self._hashes):
            self._sorted = np.sort(np.asarray(self._hashes))
        index = int(np.searchsorted(self._sorted, hash(said)))
        return index < len(self._sorted) and int(self._sorted[index]) == hash(said)

    @classmethod
    def joined(cls, several: Iterable["Multiset"]) -> Self:
        """Return all entries of several multisets."""
        joined = cls()
        for each in several:
            joined._hashes.extend(each._hashes)
            joined._places.extend(each._places)
            joined._about.extend(each._about)
        return joined

    def about(self, offsets: Collection[int]) -> Self:
        """Return the entries about certain offsets."""
        chosen = type(self)()
        for said, place, about in zip(self._hashes, self._places, self._about, strict=True):
            if about in offsets:
                chosen.add_hash(said, *_unpacked(place), about)
        return chosen

    def but(self, left_out: Iterable[Entry]) -> Self:
        """Return all entries but those in certain places."""
        places = {(entry.partition, entry.offset) for entry in left_out}
        kept = type(self)()
        for said, place, about in zip(self._hashes, self._places, self._about, strict=True):
            if _unpacked(place) not in places:
                kept.add_hash(said, *_unpacked(place), about)
        return kept

    def entries(self) -> Iterator[Entry]:
        """Yield the places of all entries, in the order of adding."""
        for place, about in zip(self._places, self._about, strict=True):
            yield Entry(*_unpacked(place), about)

    def without(self, other: "Multiset") -> Iterator[Entry]:
        """Yield entries that the other has not, or less often, in the order of adding."""
        mine, theirs = np.asarray(self._hashes), np.sort(np.asarray(other._hashes))
        order = np.argsort(mine, kind="stable")
        ordered = mine[order]
        nth = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
        there = np.searchsorted(theirs, ordered, "right") - np.searchsorted(theirs, ordered)
        for index in np.sort(order[nth >= there]).tolist():
            yield Entry(*_unpacked(self._places[index]), self._about[index])


def _unpacked(place: int) -> tuple[int, int]:
    return place >> _OFFSET_BITS, place & _OFFSET_MASK
