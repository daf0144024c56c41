"""Dead letters, read again: originals as they came, causes, later records, printable text."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.connection import Connection
from app.config.settings import Settings
from app.dead_letters import printing
from app.dead_letters.later import REPLAY_OF_HEADER, Traces, target_partition_of
from app.dead_letters.letters import REPLAYED_AS_HEADER, DeadLetters, Letter, Original
from app.dead_letters.listing import Cause, Where, by_cause, chosen, members
from app.dead_letters.recent import Recent, RecentDeadLetters
from app.dead_letters.replay import MAX_BYTES, MAX_LETTERS, chunks
from app.domain.consumed_records import TOO_LARGE, UNREADABLE_HEADER, UnreadableRecord, are_text
from app.domain.errors import UnreadableRecordError
from app.domain.positions import Position
from app.domain.records import Headers, Outgoing
from app.kafka.topics import MAX_DEAD_LETTER_BYTES, declare
from tests.support.strategies import Record

SOURCE = "user-registrations"
LETTERS = DeadLetters(SOURCE, "dead")
ERROR = UnreadableRecordError("invalid-json", "Invalid JSON: expected ident")
NOON_MS = 1_772_625_600_000
AT = Position(3, 9)

names = st.sampled_from(
    ["trace", "mark", "error", "original-key", "source-topic", "too-large-bytes", "replayed-as"]
)
headers = st.lists(st.tuples(names, st.binary(max_size=9)), max_size=6)
records = st.builds(
    Record,
    st.none() | st.binary(max_size=99),
    st.integers(0, 2**40),
    st.none() | st.binary(max_size=9),
    st.integers(0, 2**41),
    headers,
)


def stored(letter: Outgoing, offset: int = 5, timestamp: int = NOON_MS) -> Record:
    """Return a record of the dead-letter topic as it is read."""
    return Record(letter.value, offset, letter.key, timestamp, letter.headers)


def letter(
    value: bytes | None = b"not json",
    at: Position = AT,
    cause: str = "invalid-json",
    timestamp: int = NOON_MS,
    **more: object,
) -> Letter:
    """Return a letter that was read."""
    arrival = Record(value, at.offset, **more)  # type: ignore[arg-type]
    made = LETTERS.letter(at.partition, arrival, UnreadableRecordError(cause, "detail"))
    read = Letter.read(stored(made, timestamp=timestamp))
    assert read is not None
    return read


def marked(mark: str = "replayed") -> Letter:
    """Return a mark that was read."""
    more = [(REPLAYED_AS_HEADER, Position(1, 2).token().encode())]
    read = Letter.read(stored(LETTERS.mark(AT, mark, more)))
    assert read is not None
    return read


# -- letters


@given(records)
def test_an_original_is_read_as_it_came_whatever_its_headers_are_called(record: Record) -> None:
    read = Letter.read(stored(LETTERS.letter(3, record, ERROR)))
    assert read is not None
    assert read.name == (SOURCE, Position(3, record.offset))
    assert (read.cause, read.detail) == ("invalid-json", "Invalid JSON: expected ident")
    assert (read.is_open, read.too_large) == (True, False)
    original = read.original
    assert original is not None
    assert (original.key, original.value) == (record.key, record.value)
    assert (original.offset, original.timestamp) == (record.offset, record.timestamp)
    assert list(original.headers) == list(record.headers)


def test_a_letter_names_the_id_of_its_original() -> None:
    assert letter(b'{"id":"ada"}').id == "ada"
    assert letter(b"nonsense", key=b"ada").id == "ada"
    assert letter(b"nonsense").id is None


def test_of_a_letter_that_was_too_large_the_size_is_known() -> None:
    read = letter(b"x" * MAX_DEAD_LETTER_BYTES)
    assert (read.too_large, read.size) == (True, MAX_DEAD_LETTER_BYTES)
    assert read.original is None
    assert read.is_open


def test_a_mark_has_nothing_of_the_original() -> None:
    read = marked()
    assert (read.mark, read.is_open, read.original, read.size) == ("replayed", False, None, 0)
    assert read.replayed_as == Position(1, 2).token()


@pytest.mark.parametrize(
    "record",
    [
        Record(b"{}", key=None),
        Record(b"{}", key=b"\xff"),
        Record(b"{}", key=b"no position"),
        Record(b"{}", key=b"topic/no position"),
        Record(b"{}", key=f"topic/{Position(0, 0).token()}".encode()),
    ],
)
def test_what_others_wrote_into_the_topic_is_no_letter(record: Record) -> None:
    assert Letter.read(record) is None


def test_headers_that_are_no_numbers_do_no_harm() -> None:
    made = LETTERS.letter(3, Record(b"x", 9), ERROR)
    forged = [(n, b"\xffx" if n == "source-timestamp-ms" else v) for n, v in made.headers]
    read = Letter.read(Record(b"x", 5, made.key, NOON_MS, forged))
    assert read is not None
    assert read.original is not None
    assert read.original.timestamp == 0


# -- lists


def test_causes_are_counted_the_most_frequent_first() -> None:
    letters = [
        letter(cause="b", timestamp=2),
        letter(cause="a", timestamp=1),
        letter(cause="b", timestamp=9),
        letter(cause="c", timestamp=5),
    ]
    assert by_cause(letters) == [Cause("b", 2, 2, 9), Cause("a", 1, 1, 1), Cause("c", 1, 5, 5)]
    assert by_cause([marked(), marked("erased")])[0].cause == "erased"


def test_open_letters_are_listed_newest_first() -> None:
    old, new = letter(timestamp=1), letter(timestamp=2)
    assert chosen([old, marked(), new]) == [new, old]
    assert chosen([old, marked(), new], marked=True) == [marked()]


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("cause=invalid-json", True),
        ("cause=other", False),
        ("id=ada", True),
        ("id=", False),
        ("partition=3", True),
        ("partition=4", False),
        (f"topic={SOURCE}", True),
    ],
)
def test_letters_are_chosen_by_conditions(where: str, holds: bool) -> None:
    read = letter(b'{"id":"ada"}')
    assert chosen([read], [Where.parse(where)]) == ([read] if holds else [])
    assert chosen([read], [Where.parse(where), Where.parse("cause=none")]) == []


@pytest.mark.parametrize("text", ["cause", "colour=red", "", "=x"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cause, id, partition, topic"):
        Where.parse(text)


def test_neither_id_nor_bytes_are_told_unless_asked_for() -> None:
    read = letter(b'{"id":"ada"}')
    assert members(read) == {
        "position": AT.token(),
        "topic": SOURCE,
        "cause": "invalid-json",
        "detail": "detail",
        "time": "2026-03-04T12:00:00.000Z",
        "bytes": 12,
    }
    assert members(read, with_id=True)["id"] == "ada"
    assert members(marked()) == {
        "position": AT.token(),
        "topic": SOURCE,
        "time": "2026-03-04T12:00:00.000Z",
        "mark": "replayed",
        "replayed_as": Position(1, 2).token(),
    }


# -- later records


def of_ada(offset: int, replay_of: Position | None = None) -> Record:
    """Return a record of an id."""
    named = [] if replay_of is None else [(REPLAY_OF_HEADER, replay_of.token().encode())]
    return Record(b'{"id":"ada"}', offset, headers=named)


def later(
    records: Sequence[Record],
    at: Position = AT,
    known: Sequence[Position] = (),
    below: int | None = None,
) -> Position | None:
    """Return what is later than a letter of ada's among records of partition 3."""
    traces = Traces({3: {"ada"}}, known)
    traces.note(3, records)
    return traces.later_than(letter(b'{"id":"ada"}', at=at), below)


def test_a_record_of_the_id_that_follows_is_later() -> None:
    assert later([of_ada(8), of_ada(9)]) is None
    assert later([of_ada(10)]) == Position(3, 10)
    assert later([Record(None, 10, key=b"ada")]) == Position(3, 10)
    assert later([Record(b'{"id":"eve"}', 10), Record(b"nonsense", 11)]) is None


def test_only_records_below_the_replay_itself_count() -> None:
    assert later([of_ada(20)], below=20) is None
    assert later([of_ada(19)], below=20) == Position(3, 19)


def test_what_was_not_applied_either_is_not_later() -> None:
    assert later([of_ada(10)], known=[Position(3, 10)]) is None


def test_a_replay_counts_by_the_letter_that_it_replays() -> None:
    assert later([of_ada(10, replay_of=Position(3, 4))]) is None
    assert later([of_ada(10, replay_of=AT)]) is None
    assert later([of_ada(11, replay_of=Position(3, 10))]) == Position(3, 10)
    forged = Record(b'{"id":"ada"}', 10, headers=[(REPLAY_OF_HEADER, b"\xff")])
    assert later([forged]) == Position(3, 10)


def test_between_partitions_every_record_may_be_later() -> None:
    assert later([of_ada(1)], at=Position(4, 9)) == Position(3, 1)
    assert later([of_ada(1, replay_of=Position(4, 2))], at=Position(4, 9)) is None


def test_a_letter_goes_to_the_partition_of_its_id_or_back_to_its_own() -> None:
    assert target_partition_of(letter(b"nonsense", at=Position(7, 1)), 8) == 7
    homes = {
        target_partition_of(letter(b'{"id":"%d"}' % number, at=Position(7, 1)), 8)
        for number in range(99)
    }
    assert homes == set(range(8))


# -- transactions


def test_a_transaction_has_so_many_letters_and_bytes() -> None:
    assert [len(chunk) for chunk in chunks([letter()] * (2 * MAX_LETTERS + 1))] == [100, 100, 1]
    large = letter(b"x" * (MAX_BYTES // 4))
    assert [len(chunk) for chunk in chunks([large] * 5)] == [4, 1]
    assert list(chunks([])) == []


# -- text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (b"", ""),
        (b"\x1b]0;owned\x07", r"\u001b]0;owned\u0007"),
        (b"\xff\\xff\n", r"\xff\\xff\n"),
        (b'{"id":"\xe2\x80\xae\xc2\x9b\x7f"}', '{\n  "id": "\\u202e\\u009b\\u007f"\n}'),
        (b'{"n":1e999,"big":123456789012345678901234567890}', None),
        (b"[" * 100_000, "[" * 100_000),
        ('{"é":"😀"}'.encode(), '{\n  "é": "😀"\n}'),
        (b'"\\ud800"', r'"\ud800"'),
    ],
)
def test_values_are_shown_in_printable_characters(value: bytes | None, shown: str | None) -> None:
    text = printing.body(value)
    assert shown is None or text == shown
    assert text.replace("\n", "").isprintable()


@given(st.binary())
def test_no_bytes_reach_a_terminal_raw(data: bytes) -> None:
    assert printing.escaped_bytes(data).isprintable()
    assert printing.body(data).replace("\n", "").isprintable()


def test_a_letter_is_shown_whole_and_printable() -> None:
    read = letter(b'{"a":1}', key=b"\x1b", headers=[("\x1btrace", b"\x07")])
    lines = list(printing.sheet(read, read.original))
    assert "cause: invalid-json" in lines
    assert r"key: \u001b" in lines
    assert r"header \u001btrace: \u0007" in lines
    assert lines[-1] == '{\n  "a": 1\n}'
    assert "too large" in list(printing.sheet(letter(b"x" * MAX_DEAD_LETTER_BYTES), None))[-1]
    assert "replayed" in list(printing.sheet(marked(), None))[-1]


# -- the page's reading


async def test_one_reading_serves_all_who_ask_and_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead_letters = RecentDeadLetters(Connection("127.0.0.1:1"), declare(Settings()).dead_letter)
    answers: list[Recent] = []

    async def read() -> Recent:
        await asyncio.sleep(0)
        answers.append(Recent([], [], False))
        return answers[-1]

    monkeypatch.setattr(dead_letters, "_read", read)
    monkeypatch.setattr(dead_letters, "_good_until", float("inf"))
    both = await asyncio.gather(dead_letters.recent(), dead_letters.recent())
    assert await dead_letters.recent() is both[0] is both[1]
    monkeypatch.setattr(dead_letters, "_good_until", 0.0)
    assert await dead_letters.recent() is not both[0]
    assert len(answers) == 2


# -- originals that cannot be given as they were


def unreadable(cause: str, headers: Headers = (), size: int = 9) -> UnreadableRecord:
    """Return a record that cannot be given as it is."""
    return UnreadableRecord(AT.offset, 5, b"k", b"value", headers, cause, size)


@given(st.lists(st.tuples(st.binary(max_size=9), st.none() | st.binary(max_size=9)), max_size=4))
def test_a_letter_gives_headers_back_whose_names_are_not_utf_8(
    pairs: list[tuple[bytes, Any]],
) -> None:
    headers = [(name.decode(errors="surrogateescape"), value) for name, value in pairs]
    record = unreadable(UNREADABLE_HEADER, [*headers, ("\udcff", b"1")])
    written = stored(LETTERS.letter(3, record, record.error))
    assert are_text(written.headers)
    letter = Letter.read(written)
    assert letter is not None
    assert letter.original is not None
    assert letter.original.headers == record.headers
    assert (letter.original.key, letter.original.value) == (record.key, record.value)
    assert letter.cause == "unreadable-header"
    printed = "\n".join(printing.sheet(letter, letter.original))
    assert r"header \xff: 1" in printed
    assert printed.replace("\n", "").isprintable()


def test_a_letter_of_a_record_too_large_to_be_read_has_its_size() -> None:
    record = unreadable(TOO_LARGE, size=9_000_000)
    letter = Letter.read(stored(LETTERS.letter(3, record, record.error)))
    assert letter is not None
    assert (letter.cause, letter.size, letter.too_large) == ("too-large", 9_000_000, True)
    assert letter.original is None
    assert Original.of(record).is_cut


def test_a_letter_says_with_whose_key_its_original_was_written() -> None:
    read = letter(headers=[("by", b"shop-1"), ("trace", b"x")])
    assert (read.by, letter().by, marked().by) == ("shop-1", None, None)
    assert members(read)["by"] == "shop-1"
    assert "by" not in members(letter())
    assert chosen([read, letter()], [Where("by", "shop-1")]) == [read]
    assert "written by: shop-1" in list(printing.sheet(read, read.original))
    shown = printing.console()
    with shown.capture() as captured:
        shown.print(printing.letters_table([read], with_ids=False, marked=False))
    assert "shop-1" in captured.get()


def test_a_letter_of_a_record_with_odd_headers_says_it_too() -> None:
    read = letter(headers=[("\udcff", b"x"), ("by", b"shop-1")])
    assert read.by == "shop-1"
