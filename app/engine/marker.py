"""The applied marker: a row of the changelog that says what is applied.

It is written last in each transaction, so that rows and marker can never disagree. A new owner of
the partition resumes where the marker says. The offsets that the same transaction commits for the
group say the same, but they are only the fence and the lag display: the broker forgets them a week
after the last member left. The marker's key begins with a byte that no UTF-8 text has, as do the
keys of all rows that are no user's.
"""

from collections.abc import Mapping
from typing import Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from app.domain.compact import dumps
from app.domain.keys import EmailKeys

#: Raised when the same records would come to other rows, or another engine writes them.
RULES_VERSION = 3
#: The rules of version 0.8: its rows are taken over, and it refuses ours.
RULES_OF_0_8 = 2

#: Row keys of users are UTF-8 and therefore never begin with this byte.
RESERVED_PREFIX = b"\xff"

MARKER_KEY = RESERVED_PREFIX + b"applied"

#: What the keys of rows begin with that are kept beside the users: outcomes by page of offsets,
#: where records were moved by offset, dead letters by id; and the one row of who came last.
OUTCOMES_PREFIX = RESERVED_PREFIX + b"outcomes"
MOVES_PREFIX = RESERVED_PREFIX + b"moved"
LETTERS_PREFIX = RESERVED_PREFIX + b"letters"
RECENT_KEY = RESERVED_PREFIX + b"recent"

#: Records whose outcomes share a page.
PAGE_RECORDS = 256
_NUMBER_BYTES = 8


def page_key(number: int) -> bytes:
    """Return the key of the row that has a page of outcomes."""
    return OUTCOMES_PREFIX + number.to_bytes(_NUMBER_BYTES, "big")


def move_key(offset: int) -> bytes:
    """Return the key of the row that has the position to which a record was moved."""
    return MOVES_PREFIX + offset.to_bytes(_NUMBER_BYTES, "big")


def letters_key(user_id: str) -> bytes:
    """Return the key of the row that has the letters of an id."""
    return LETTERS_PREFIX + user_id.encode()


def rules(email_keys: EmailKeys) -> str:
    """Return under what rows are decided: by which code, and with which secret."""
    return f"{RULES_VERSION}:{email_keys.fingerprint()}"


def secret_of(rules: str) -> str:
    """Return the fingerprint of the secret that rules were made with; empty if they tell none."""
    return rules.partition(":")[2]


#: The rules of a table that was sealed and emptied: no version goes on from there.
SEALED = "sealed"


def why_refused(theirs: str, ours: str) -> str | None:
    """Return why rows that were decided under other rules cannot be taken over; None if they can.

    What is newer is told apart: then it is this version that is the wrong one.
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
    """Which log this is, and the next offset to apply of each source topic."""

    model_config = ConfigDict(frozen=True)

    #: Drawn when the changelog was empty: a topic that was made anew has another.
    log: str
    next: Mapping[str, int]
    #: Under what the rows were decided: another code or secret would decide otherwise.
    rules: str = ""
    #: Set once the rows were copied to another changelog, which goes on from here.
    is_sealed: bool = False
    #: Of each source topic, the id that Kafka gave it, and the leader epoch of what was applied
    #: last: by them a topic that was made anew, or has lost its end, is told from the one before.
    ids: Mapping[str, str] = {}
    epochs: Mapping[str, int] = {}
    #: Where a source was read up to, if what follows was applied as it was sent: of that the epoch
    #: is not known, the one in `epochs` is of the record before this offset.
    read: Mapping[str, int] = {}
    #: The log that this one was made of when a backup was restored: stores of that are of the past.
    replaces: str = ""
    #: Where a source ended when it was first read, if it had records: others may have applied them.
    again: Mapping[str, int] = {}

    @classmethod
    def first(cls, rules: str = "") -> Self:
        """Return the marker of a changelog that is empty."""
        return cls(log=uuid4().hex, next={}, rules=rules)

    @classmethod
    def last(cls) -> Self:
        """Return the marker of a changelog from which nobody shall go on."""
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
        """Return the marker with the seal, or without."""
        return self.model_copy(update={"is_sealed": is_sealed})

    def after(self, topic: str, offset: int, epoch: int | None = None) -> "Marker":
        """Return the marker once everything of a topic below an offset is applied."""
        changed: dict[str, Mapping[str, int]] = {"next": {**self.next, topic: offset}}
        if epoch is not None and epoch >= 0:
            changed["epochs"] = {**self.epochs, topic: epoch}
            changed["read"] = {name: at for name, at in self.read.items() if name != topic}
        return self.model_copy(update=changed)

    def ahead(self, topic: str, offset: int) -> "Marker":
        """Return the marker once what was sent to a topic, up to an offset, is applied unread."""
        read = {topic: self.next.get(topic, 0), **self.read}
        return self.model_copy(update={"next": {**self.next, topic: offset}, "read": read})

    def epoch(self, topic: str) -> int:
        """Return the leader epoch of the record before the next one, -1 if it is not known."""
        return -1 if topic in self.read else self.epochs.get(topic, -1)

    def last_read(self, topic: str) -> tuple[int, int]:
        """Return up to where a topic was read, and the leader epoch of the record before that."""
        return self.read.get(topic, self.next.get(topic, 0)), self.epochs.get(topic, -1)

    def beginning(self, topic: str, begin: int, end: int) -> "Marker":
        """Return the marker of who reads a topic from its beginning."""
        again = {**self.again, topic: end} if end > begin else self.again
        return self.after(topic, begin).model_copy(update={"again": again})

    def reads_again(self, topic: str) -> bool:
        """Return whether records come next that others may have applied."""
        return self.next.get(topic, 0) < self.again.get(topic, 0)

    def under(self, rules: str, ids: Mapping[str, str]) -> "Marker":
        """Return the marker as one of these rules and topics."""
        return self.model_copy(update={"rules": rules, "ids": ids})

    def going_on(self, topic: str, offset: int, topic_id: str) -> "Marker":
        """Return the marker of who goes on elsewhere in a topic, whatever was before that."""
        epochs = {name: epoch for name, epoch in self.epochs.items() if name != topic}
        read = {name: at for name, at in self.read.items() if name != topic}
        changed = {"ids": {**self.ids, topic: topic_id}, "epochs": epochs, "read": read}
        return self.after(topic, offset).model_copy(update=changed)

    def covers(self, other: "Marker") -> bool:
        """Return whether everything is applied by this marker that is by another one."""
        same = (self.ids.get(topic, known) == known for topic, known in other.ids.items())
        return all(same) and all(self.next.get(t, -1) >= end for t, end in other.next.items())

    def anew(self) -> "Marker":
        """Return the marker for a copy of the log, beside copies of the sources."""
        changed = {"log": uuid4().hex, "ids": {}, "epochs": {}, "read": {}, "replaces": self.log}
        return self.model_copy(update=changed)


#: Members that are written even if they are empty.
_ALWAYS = ("log", "next", "rules")
