"""Summaries: decisions of an operator about records that are not applied.

A summary's key begins with its cause, and is no letter's. No mark takes its place.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from app.dead_letters.letters import CAUSE_HEADER, DETAIL_HEADER
from app.domain.consumed_records import ConsumedRecord
from app.kafka.fast_records import ToWrite

LOST_RECORDS: Literal["lost-records"] = "lost-records"
SKIPPED: Literal["skipped"] = "skipped"


class Summary(BaseModel):
    """Records of one partition: from the first to the last, None if nobody knows which is that."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int
    first: int
    last: int | None
    why: str

    def __str__(self) -> str:
        many = self.last != self.first
        until = f" to {'?' if self.last is None else self.last}" if many else ""
        records = f"record{'s' if many else ''} {self.first}{until}"
        return f"{self.topic}, partition {self.partition}: {records}"

    def key(self, cause: str) -> bytes:
        """Return the key of its record."""
        return f"{cause}/{self.topic}/{self.partition}/{self.first}".encode()

    def to_write(self, cause: str, detail: str) -> ToWrite:
        """Return it as a record."""
        headers = [(CAUSE_HEADER, cause.encode()), (DETAIL_HEADER, detail.encode())]
        return None, self.key(cause), self.model_dump_json().encode(), headers

    @classmethod
    def read(cls, record: ConsumedRecord, cause: str) -> Self | None:
        """Return the summary of a cause in a record of the dead-letter topic, or None."""
        try:
            found = cls.model_validate_json(record.value or b"")
        except ValidationError:
            return None
        return found if record.key == found.key(cause) else None
