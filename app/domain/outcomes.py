"""Outcomes: what became of a record of ``user-registrations``."""

from enum import IntEnum
from typing import NamedTuple, Self


class Outcome(IntEnum):
    """What became of a record; the numbers are stored and never change their meaning."""

    #: The email is not settled yet, or the record waits for an earlier record of the same id.
    PENDING = 1
    REGISTERED = 2
    #: The same registration again. Nothing changes, and the first answer counts.
    REPLAYED = 3
    ID_TAKEN = 4
    EMAIL_TAKEN = 5
    UNKNOWN_ID = 6
    UPDATED = 7
    #: The user is deleted, or did not exist.
    ERASED = 8
    #: The record was in a wrong partition, and was sent to the right one.
    MOVED = 9
    #: It cannot be applied.
    DEAD_LETTER = 10
    #: The queue of the id was full. The record may be sent again.
    TOO_MANY_PENDING = 11
    #: The record asked for another version of the user than the one that it met.
    VERSION_MISMATCH = 12

    @property
    def word(self) -> str:
        """The outcome as one word for programs."""
        return "rejected" if self.reason else self.name.lower().replace("_", "-")

    @property
    def reason(self) -> str | None:
        """Why the record was rejected; None if it was not."""
        return self.name.lower().replace("_", "-") if self in _REJECTIONS else None

    @classmethod
    def from_words(cls, word: str, reason: str | None) -> Self:
        """Return the outcome for a word and a reason."""
        return cls[(reason or word).upper().replace("-", "_")]

    @property
    def is_terminal(self) -> bool:
        """Whether the outcome is final."""
        return self is not Outcome.PENDING


_REJECTIONS = {
    Outcome.ID_TAKEN,
    Outcome.EMAIL_TAKEN,
    Outcome.UNKNOWN_ID,
    Outcome.TOO_MANY_PENDING,
    Outcome.VERSION_MISMATCH,
}


class Decided(NamedTuple):
    """The outcome of the record at an offset, and the id that it concerns."""

    offset: int
    id: str
    outcome: Outcome
