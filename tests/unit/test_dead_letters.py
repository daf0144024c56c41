"""Dead letters: original bytes intact, reasons beside them, never too large to write."""

from app.dead_letters import DeadLetters
from app.domain.errors import UnreadableRecordError
from app.domain.positions import Position
from app.kafka.topics import MAX_DEAD_LETTER_BYTES
from tests.support.strategies import Record

LETTERS = DeadLetters("user-registrations", "dead")
ERROR = UnreadableRecordError("invalid-json", "Invalid JSON: expected ident")
AT = Position(3, 9)
SOURCE = {
    "source-topic": b"user-registrations",
    "source-partition": b"3",
    "source-offset": b"9",
    "source-position": AT.token().encode(),
}


def test_a_dead_letter_is_the_original_with_reasons() -> None:
    arrival = Record(b"not json", 9, key=b"k", headers=[("trace", b"1")])
    letter = LETTERS.letter(3, arrival, ERROR)
    assert (letter.topic, letter.partition, letter.value) == ("dead", 3, b"not json")
    assert dict(letter.headers) == {
        "trace": b"1",
        **SOURCE,
        "error": b"invalid-json",
        "error-detail": b"Invalid JSON: expected ident",
        "source-timestamp-ms": b"1700000000000",
        "original-key": b"k",
    }


def test_the_originals_headers_stand_before_ours() -> None:
    arrival = Record(b"?", 9, headers=[("error", b"theirs"), ("a", b"1"), ("a", b"2")])
    names = [name for name, _ in LETTERS.letter(3, arrival, ERROR).headers]
    assert names[:4] == ["error", "a", "a", "source-topic"]
    assert names.count("error") == 2


def test_a_letters_key_is_the_name_of_its_record() -> None:
    key = f"user-registrations/{AT.token()}".encode()
    assert LETTERS.letter(3, Record(b"?", 9, key=b"k"), ERROR).key == key
    assert LETTERS.letter(3, Record(b"!", 9), ERROR).key == key
    assert LETTERS.letter(3, Record(b"?", 10), ERROR).key != key
    assert LETTERS.letter(4, Record(b"?", 9), ERROR).key != key
    assert DeadLetters("email-claims", "dead").letter(3, Record(b"?", 9), ERROR).key != key


def test_an_absent_key_or_value_is_told_from_an_empty_one() -> None:
    absent = LETTERS.letter(3, Record(None, 9), ERROR)
    assert "original-key" not in dict(absent.headers)
    assert dict(absent.headers)["original-value-is-null"] == b"1"
    # A letter without a value would be a tombstone: compaction would remove it.
    assert absent.value == b""
    empty = LETTERS.letter(3, Record(b"", 9, key=b""), ERROR)
    assert dict(empty.headers)["original-key"] == b""
    assert "original-value-is-null" not in dict(empty.headers)
    assert empty.value == b""


def test_of_what_came_compressed_and_is_too_large_only_the_size_is_kept() -> None:
    value = b"x" * (10 * MAX_DEAD_LETTER_BYTES)
    arrival = Record(value, 9, key=b"k", headers=[("h", b"y" * 1000)])
    letter = LETTERS.letter(3, arrival, ERROR)
    assert letter.value == b""
    headers = dict(letter.headers)
    assert headers["too-large-bytes"] == str(len(value) + 1002).encode()
    assert headers["error"] == b"invalid-json"
    assert headers.keys().isdisjoint({"h", "original-key", "original-value-is-null"})


def test_key_and_headers_count_towards_the_size_of_a_letter() -> None:
    large = b"x" * MAX_DEAD_LETTER_BYTES
    for arrival in (Record(b"?", 9, key=large), Record(b"?", 9, headers=[("h", large)])):
        letter = LETTERS.letter(3, arrival, ERROR)
        assert "too-large-bytes" in dict(letter.headers)
        assert sum(len(name) + len(value) for name, value in letter.headers) < 1_000


def test_a_long_reason_is_cut() -> None:
    letter = LETTERS.letter(3, Record(b"?", 9), UnreadableRecordError("c", "é" * 100_000))
    assert dict(letter.headers)["error-detail"] == ("é" * 1_000).encode()


def test_a_mark_takes_the_place_of_a_letter_and_has_none_of_its_bytes() -> None:
    letter = LETTERS.letter(3, Record(b"not json", 9, key=b"k"), ERROR)
    mark = LETTERS.mark(AT, "replayed", [("replayed-as", b"there")])
    assert (mark.topic, mark.partition, mark.key) == (letter.topic, letter.partition, letter.key)
    assert mark.value == b""
    assert dict(mark.headers) == {**SOURCE, "mark": b"replayed", "replayed-as": b"there"}
