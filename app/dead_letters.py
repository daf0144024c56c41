"""Dead letters: what cannot be applied, with the reason and the place it came from."""

from dataclasses import dataclass

from app.errors import UnreadableRecordError
from app.records import Headers
from app.registration import Arrival
from app.topics import MAX_DEAD_LETTER_BYTES

#: What headers and the record's own framing may take of the largest dead letter.
_ROOM_FOR_FRAMING_BYTES = 64 * 1024
_MAX_DETAIL_CHARACTERS = 1_000
#: Of a record too large to keep whole (it came compressed), so much is kept; the original stands
#: at the position that the headers name.
_KEPT_OF_TOO_LARGE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The record for the dead-letter topic; key and value are the original's."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def dead_letter(arrival: Arrival, error: UnreadableRecordError, topic: str) -> DeadLetter:
    """Return the dead letter for a record of ``topic`` that could not be applied."""
    reasons = _reasons(arrival, error, topic)
    size = len(arrival.key or b"") + len(arrival.value or b"") + _bytes_of(arrival.headers)
    if size <= MAX_DEAD_LETTER_BYTES - _ROOM_FOR_FRAMING_BYTES:
        return DeadLetter(arrival.key, arrival.value, [*arrival.headers, *reasons])
    return DeadLetter(
        _beginning(arrival.key),
        _beginning(arrival.value),
        [*reasons, ("truncated-from-bytes", str(size).encode())],
    )


def _reasons(arrival: Arrival, error: UnreadableRecordError, topic: str) -> Headers:
    reasons = {
        "error": error.cause,
        "error-detail": str(error)[:_MAX_DETAIL_CHARACTERS],
        "source-topic": topic,
        "source-partition": arrival.position.partition,
        "source-offset": arrival.position.offset,
        "source-position": arrival.position.token(),
        "source-timestamp-ms": arrival.timestamp_ms,
    }
    return [(name, str(reason).encode()) for name, reason in reasons.items()]


def _bytes_of(headers: Headers) -> int:
    return sum(len(name) + len(value or b"") for name, value in headers)


def _beginning(data: bytes | None) -> bytes | None:
    return None if data is None else data[:_KEPT_OF_TOO_LARGE_BYTES]
