"""Outcomes: what became of a record of ``user-registrations``."""

from enum import IntEnum
from typing import NamedTuple, Self


class Outcome(IntEnum):
    """What became of a record; the numbers are stored and never change their meaning."""

    #: Its email is not settled yet, or it waits for a record before it whose email is not.
    PENDING = 1
    REGISTERED = 2
    #: The same registration once more: nothing changes, the first answer stands.
    REPLAYED = 3
    ID_TAKEN = 4
    EMAIL_TAKEN = 5
    UNKNOWN_ID = 6
    UPDATED = 7
    #: The user is gone, or was not there.
    ERASED = 8
    #: It stood in a wrong partition and was sent to the right one.
    MOVED = 9
    #: It cannot be applied.
    DEAD_LETTER = 10
    #: There was no place left in the queue of its id. It may be sent again.
    TOO_MANY_PENDING = 11

    @property
    def word(self) -> str:
        """The outcome, as it is told."""
        return "rejected" if self.reason else self.name.lower().replace("_", "-")

    @property
    def reason(self) -> str | None:
        """Why the record was rejected; None if it was not."""
        return self.name.lower().replace("_", "-") if self in _REJECTIONS else None

    @classmethod
    def from_words(cls, word: str, reason: str | None) -> Self:
        """Return the outcome that is told in these words."""
        return cls[(reason or word).upper().replace("-", "_")]

    @property
    def is_terminal(self) -> bool:
        """Whether nothing else will become of the record."""
        return self is not Outcome.PENDING


_REJECTIONS = {
    Outcome.ID_TAKEN,
    Outcome.EMAIL_TAKEN,
    Outcome.UNKNOWN_ID,
    Outcome.TOO_MANY_PENDING,
}


class Decided(NamedTuple):
    """What became of the record at an offset, and whom it concerns."""

    offset: int
    id: str
    outcome: Outcome
