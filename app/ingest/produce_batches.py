"""Record batches of the write path: built once, and sent again as the same bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    KafkaStorageError,
    NotEnoughReplicasAfterAppendError,
    RequestTimedOutError,
    UnknownError,
)

from app.kafka.fast_records import ToWrite
from app.kafka.protocol import SEQUENCES, ProducerIdentity
from app.kafka.transactions import COMPRESSIONS, encode_batches

#: Answers that leave it open whether a batch is written. All others say that it is not.
_OPEN = (
    KafkaStorageError,
    NotEnoughReplicasAfterAppendError,
    RequestTimedOutError,
    UnknownError,
)


@dataclass(slots=True)
class Batch:
    """Records of one partition under one sequence number: however often it is sent, it is once."""

    data: bytes
    records: int
    #: Whether an attempt may still be written, or be written already.
    is_in_doubt: bool = False
    #: Whether a request has it, which will send it or is sending it.
    is_taken: bool = False
    #: Whether the broker has answered the last attempt, if only to refuse it.
    is_answered: bool = False
    _was_in_doubt: bool = False

    def begin_attempt(self) -> None:
        """Take note that it is sent now."""
        self.is_answered = False
        self._was_in_doubt, self.is_in_doubt = self.is_in_doubt, True

    def end_attempt(self, error: BaseException) -> None:
        """Take note of how that has failed: many answers tell that it was not written."""
        if isinstance(error, BrokerResponseError) and not isinstance(error, _OPEN):
            self.is_in_doubt = self._was_in_doubt
            self.is_answered = True


def is_retriable(error: BaseException) -> bool:
    """Return whether a batch may be sent again after an error."""
    return not isinstance(error, KafkaError) or error.retriable


def is_metadata_stale(error: BaseException) -> bool:
    """Return whether an error tells that a partition has another leader than was known."""
    return isinstance(error, KafkaStorageError) or bool(getattr(error, "invalid_metadata", False))


class Sequence:
    """The sequence numbers of one partition under one identity."""

    def __init__(self) -> None:
        self._identity: ProducerIdentity | None = None
        self._next = 0

    def build(
        self,
        identity: ProducerIdentity,
        records: Iterable[ToWrite],
        max_bytes: int,
        compression: int = COMPRESSIONS["none"],
    ) -> Batch:
        """Return a batch of the first records; one of any size, and more if they fit."""
        if identity != self._identity:
            self._identity, self._next = identity, 0
        data, count = next(
            encode_batches(
                records,
                identity,
                self._next,
                compression,
                is_transactional=False,
                max_bytes=max_bytes,
            )
        )
        return Batch(bytes(data), count)

    def written(self, batch: Batch) -> None:
        """Go on behind a batch that is written."""
        self._next = (self._next + batch.records) % SEQUENCES
