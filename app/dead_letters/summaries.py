"""Summaries: an operator's decisions about records that are not applied.

The key of a summary begins with its cause, so it is never the key of a letter.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from app.dead_letters.letters import CAUSE_HEADER, DETAIL_HEADER
from app.domain.consumed_records import ConsumedRecord
from app.kafka.fast_records import ToWrite

LOST_RECORDS: Literal["lost-records"] = "lost-records"
SKIPPED: Literal["skipped"] = "skipped"


class Summary(BaseModel):
    """Records of one partition, from the first to the last; None if the last one is unknown."""

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
        """Return the key of the summary's record."""
        return f"{cause}/{self.topic}/{self.partition}/{self.first}".encode()

    def to_write(self, cause: str, detail: str) -> ToWrite:
        """Return the summary as a record."""
        headers = [(CAUSE_HEADER, cause.encode()), (DETAIL_HEADER, detail.encode())]
        return None, self.key(cause), self.model_dump_json().encode(), headers

    @classmethod
    def read(cls, record: ConsumedRecord, cause: str) -> Self | None:
        """Return the summary in a record of the dead-letter topic; None if it has another cause."""
        try:
            found = cls.model_validate_json(record.value or b"")
        except ValidationError:
            return None
        return found if record.key == found.key(cause) else None
