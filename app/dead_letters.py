"""Dead letters: what cannot be applied, with the reason and the place it came from."""

from dataclasses import dataclass

from app.errors import UnreadableRecordError
from app.positions import Position
from app.records import Headers, Outgoing
from app.registration import Arrival
from app.topics import MAX_DEAD_LETTER_BYTES

#: What headers and the record's own framing may take of the largest dead letter.
_ROOM_FOR_FRAMING_BYTES = 64 * 1024
_MAX_DETAIL_CHARACTERS = 1_000
#: Of a record too large to keep whole (it came compressed), so much is kept; the original stands
#: at the position that the headers name.
_KEPT_OF_TOO_LARGE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Makes dead letters of the records of one topic, for another."""

    source: str
    topic: str

    def letter(self, partition: int, arrival: Arrival, error: UnreadableRecordError) -> Outgoing:
        """Return the dead letter for a record that could not be applied, its bytes unchanged."""
        reasons = self._reasons(Position(partition, arrival.offset), arrival.timestamp, error)
        size = len(arrival.key or b"") + len(arrival.value or b"") + _bytes_of(arrival.headers)
        if size <= MAX_DEAD_LETTER_BYTES - _ROOM_FOR_FRAMING_BYTES:
            headers = [*arrival.headers, *reasons]
            return Outgoing(self.topic, partition, arrival.key, arrival.value, None, headers)
        return Outgoing(
            self.topic,
            partition,
            _beginning(arrival.key),
            _beginning(arrival.value),
            None,
            [*reasons, ("truncated-from-bytes", str(size).encode())],
        )

    def _reasons(
        self, position: Position, timestamp_ms: int, error: UnreadableRecordError
    ) -> Headers:
        reasons = {
            "error": error.cause,
            "error-detail": str(error)[:_MAX_DETAIL_CHARACTERS],
            "source-topic": self.source,
            "source-partition": position.partition,
            "source-offset": position.offset,
            "source-position": position.token(),
            "source-timestamp-ms": timestamp_ms,
        }
        return [(name, str(reason).encode()) for name, reason in reasons.items()]


def _bytes_of(headers: Headers) -> int:
    return sum(len(name) + len(value or b"") for name, value in headers)


def _beginning(data: bytes | None) -> bytes | None:
    return None if data is None else data[:_KEPT_OF_TOO_LARGE_BYTES]
