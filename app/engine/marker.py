"""The applied marker: a row of the changelog that says what is applied.

It is the last row of each transaction, so rows and marker always agree. A new owner of the
partition resumes at the marker. The group's offsets in the same transaction say the same, but they
are only the fence and the lag display: the broker forgets them a week after the last member left.
The marker's key begins with a byte that UTF-8 never has, as do all keys of rows that are not users.
"""

from collections.abc import Mapping
from typing import Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from app.domain.addresses import EmailKeys
from app.domain.compact import dumps

#: Raised when the same records would give other rows, or another engine writes them.
RULES_VERSION = 3
#: The rules of version 0.8. This version takes its rows over; 0.8 refuses rows of this version.
RULES_OF_0_8 = 2

#: Row keys of users are UTF-8 and therefore never begin with this byte.
RESERVED_PREFIX = b"\xff"

MARKER_KEY = RESERVED_PREFIX + b"applied"

#: Keys of rows beside the users begin with these: outcomes by page of offsets, moves by offset,
#: dead letters by id, and one row each for the newest registrations and for how many users there
#: are.
OUTCOMES_PREFIX = RESERVED_PREFIX + b"outcomes"
MOVES_PREFIX = RESERVED_PREFIX + b"moved"
LETTERS_PREFIX = RESERVED_PREFIX + b"letters"
RECENT_KEY = RESERVED_PREFIX + b"recent"
COUNT_KEY = RESERVED_PREFIX + b"count"

#: How many records share a page of outcomes.
PAGE_RECORDS = 256
_NUMBER_BYTES = 8


def page_key(number: int) -> bytes:
    """Return the key of the row with a page of outcomes."""
    return OUTCOMES_PREFIX + number.to_bytes(_NUMBER_BYTES, "big")


def move_key(offset: int) -> bytes:
    """Return the key of the row with the new position of a moved record."""
    return MOVES_PREFIX + offset.to_bytes(_NUMBER_BYTES, "big")


def letters_key(user_id: str) -> bytes:
    """Return the key of the row with the dead letters of an id."""
    return LETTERS_PREFIX + user_id.encode()


def rules(email_keys: EmailKeys) -> str:
    """Return the rules under which rows are decided: the version of the code, and the secret."""
    return f"{RULES_VERSION}:{email_keys.fingerprint()}"


def secret_of(rules: str) -> str:
    """Return the fingerprint of the secret in some rules; empty if they have none."""
    return rules.partition(":")[2]


#: The rules of a table that was sealed and emptied. No version continues from it.
SEALED = "sealed"


def why_refused(theirs: str, ours: str) -> str | None:
    """Return why rows that were decided under other rules are refused; None if they are not.

    Newer rules get another text: then this version is the wrong one.
    """
    if theirs == ours or is_of_0_8(theirs, ours):
        return None
    version = theirs.partition(":")[0]
    if version.isdecimal() and int(version) > RULES_VERSION:
        return (
            f"was written by a newer version (rules {version}, this one has {RULES_VERSION}): "
            "use that version"
        )
    return "was written under another EMAIL_SECRET, or by a version that decides otherwise"


def is_of_0_8(theirs: str, ours: str) -> bool:
    """Return whether rows were decided by version 0.8 under the same secret."""
    version = theirs.partition(":")[0]
    return version == str(RULES_OF_0_8) and secret_of(theirs) == secret_of(ours)


class Marker(BaseModel):
    """The identity of the log, and the next offset to apply of each source topic."""

    model_config = ConfigDict(frozen=True)

    #: Drawn when the changelog was empty. A topic that was deleted and made again has another one.
    log: str
    next: Mapping[str, int]
    #: The rules under which the rows were decided. Another code or secret would decide differently.
    rules: str = ""
    #: Set once the rows were copied to another changelog, which continues from here.
    is_sealed: bool = False
    #: By source topic: the topic's id, and the leader epoch of the last applied record. They show
    #: whether the topic was made again or has lost its end.
    ids: Mapping[str, str] = {}
    epochs: Mapping[str, int] = {}
    #: By source topic: up to where it was read, if later records were applied as they were sent.
    #: The epoch of those is unknown, and `epochs` has the epoch of the record before this offset.
    read: Mapping[str, int] = {}
    #: The log from which this one was restored. Stores of that log are out of date.
    replaces: str = ""
    #: By source topic: where it ended when it was first read. Records below may have been applied
    #: before.
    again: Mapping[str, int] = {}

    @classmethod
    def first(cls, rules: str = "") -> Self:
        """Return the marker of an empty changelog."""
        return cls(log=uuid4().hex, next={}, rules=rules)

    @classmethod
    def last(cls) -> Self:
        """Return the marker of a changelog that must not be continued."""
        return cls(log=uuid4().hex, next={}, rules=SEALED, is_sealed=True)

    @classmethod
    def decode(cls, row: bytes) -> Self:
        """Return the marker in a row."""
        return cls.model_validate_json(row)

    def encode(self) -> bytes:
        """Return the marker as a row."""
        members = {name: value for name, value in self.__dict__.items() if value or name in _ALWAYS}
        return dumps(members)

    def sealed(self, *, is_sealed: bool = True) -> "Marker":
        """Return the marker with or without the seal."""
        return self.model_copy(update={"is_sealed": is_sealed})

    def after(self, topic: str, offset: int, epoch: int | None = None) -> "Marker":
        """Return the marker after all records of a topic below an offset are applied."""
        changed: dict[str, Mapping[str, int]] = {"next": {**self.next, topic: offset}}
        if epoch is not None and epoch >= 0:
            changed["epochs"] = {**self.epochs, topic: epoch}
            changed["read"] = {name: at for name, at in self.read.items() if name != topic}
        return self.model_copy(update=changed)

    def ahead(self, topic: str, offset: int) -> "Marker":
        """Return the marker after records up to an offset were applied as sent, not read."""
        read = {topic: self.next.get(topic, 0), **self.read}
        return self.model_copy(update={"next": {**self.next, topic: offset}, "read": read})

    def epoch(self, topic: str) -> int:
        """Return the leader epoch of the record before the next one, -1 if it is not known."""
        return -1 if topic in self.read else self.epochs.get(topic, -1)

    def last_read(self, topic: str) -> tuple[int, int]:
        """Return up to where a topic was read, and the leader epoch of the record before it."""
        return self.read.get(topic, self.next.get(topic, 0)), self.epochs.get(topic, -1)

    def beginning(self, topic: str, begin: int, end: int) -> "Marker":
        """Return the marker for reading a topic from its beginning."""
        again = {**self.again, topic: end} if end > begin else self.again
        return self.after(topic, begin).model_copy(update={"again": again})

    def reads_again(self, topic: str) -> bool:
        """Return whether the next records may have been applied before."""
        return self.next.get(topic, 0) < self.again.get(topic, 0)

    def under(self, rules: str, ids: Mapping[str, str]) -> "Marker":
        """Return the marker with these rules and topic ids."""
        return self.model_copy(update={"rules": rules, "ids": ids})

    def going_on(self, topic: str, offset: int, topic_id: str) -> "Marker":
        """Return the marker that continues a topic at another offset, whatever was before it."""
        epochs = {name: epoch for name, epoch in self.epochs.items() if name != topic}
        read = {name: at for name, at in self.read.items() if name != topic}
        changed = {"ids": {**self.ids, topic: topic_id}, "epochs": epochs, "read": read}
        return self.after(topic, offset).model_copy(update=changed)

    def covers(self, other: "Marker") -> bool:
        """Return whether this marker has applied at least as much as another one."""
        same = (self.ids.get(topic, known) == known for topic, known in other.ids.items())
        return all(same) and all(self.next.get(t, -1) >= end for t, end in other.next.items())

    def for_copy(self) -> "Marker":
        """Return the marker for a copy of the log, beside copies of the sources."""
        changed = {"log": uuid4().hex, "ids": {}, "epochs": {}, "read": {}, "replaces": self.log}
        return self.model_copy(update=changed)


#: Members that are written even if they are empty.
_ALWAYS = ("log", "next", "rules")
