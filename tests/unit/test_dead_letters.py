"""Dead letters: original bytes intact, reasons beside them, never too large to write."""

from app.dead_letters import DeadLetters
from app.errors import UnreadableRecordError
from app.positions import Position
from app.topics import MAX_DEAD_LETTER_BYTES
from tests.strategies import Record

LETTERS = DeadLetters("user-registrations", "dead")
ERROR = UnreadableRecordError("invalid-json", "Invalid JSON: expected ident")


def test_a_dead_letter_is_the_original_with_reasons() -> None:
    arrival = Record(b"not json", 9, key=b"k", headers=[("trace", b"1")])
    letter = LETTERS.letter(3, arrival, ERROR)
    assert (letter.topic, letter.partition) == ("dead", 3)
    assert (letter.key, letter.value) == (b"k", b"not json")
    assert dict(letter.headers) == {
        "trace": b"1",
        "error": b"invalid-json",
        "error-detail": b"Invalid JSON: expected ident",
        "source-topic": b"user-registrations",
        "source-partition": b"3",
        "source-offset": b"9",
        "source-position": Position(3, 9).token().encode(),
        "source-timestamp-ms": b"1700000000000",
    }


def test_a_record_without_key_and_value_stays_so() -> None:
    letter = LETTERS.letter(0, Record(None), ERROR)
    assert (letter.key, letter.value) == (None, None)


def test_what_came_compressed_and_is_too_large_keeps_its_beginning_and_its_size() -> None:
    value = b"x" * (10 * MAX_DEAD_LETTER_BYTES)
    letter = LETTERS.letter(0, Record(value, headers=[("h", b"y" * 1000)]), ERROR)
    assert letter.value is not None
    assert value.startswith(letter.value)
    assert 0 < len(letter.value) < MAX_DEAD_LETTER_BYTES
    assert dict(letter.headers)["truncated-from-bytes"] == str(len(value) + 1001).encode()
