"""Files that are imported: each row as it is sent, or what is wrong with it, and where."""

import io

import orjson
import pytest

from app.ops.transfer.exporting import Counter
from app.ops.transfer.remote import RefusedError
from app.ops.transfer.rows import MAX_ROW_BYTES, Row, read_csv, read_ndjson

ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}


def ndjson(*lines: bytes) -> list[Row]:
    return list(read_ndjson(io.BytesIO(b"\n".join(lines))))


def csv(text: str | bytes) -> list[Row]:
    return list(read_csv(io.BytesIO(text if isinstance(text, bytes) else text.encode())))


def test_what_a_registration_does_not_have_is_left_out() -> None:
    exported = {**ADA, "status": "registered", "version": 1, "position": "x"}
    (row,) = ndjson(orjson.dumps(exported))
    assert orjson.loads(row.sent) == ADA
    (row,) = csv("version,email,id,name\n1,ada@example.com,ada,Ada\n")
    assert orjson.loads(row.sent) == ADA


def test_a_byte_order_mark_and_carriage_returns_are_taken() -> None:
    rows = ndjson(b"\xef\xbb\xbf" + orjson.dumps(ADA) + b"\r", orjson.dumps(ADA) + b"\r", b"\r")
    assert [row.sent for row in rows] == [orjson.dumps(ADA)] * 2
    assert "not JSON" in ndjson(b"", b"\xef\xbb\xbf" + orjson.dumps(ADA))[0].wrong


def test_lines_are_counted_and_blank_ones_are_none() -> None:
    rows = ndjson(b"", orjson.dumps(ADA), b"  ", b"{", b"5")
    assert [(row.line, row.wrong) for row in rows] == [
        (2, ""),
        (4, "the line is not JSON"),
        (5, ""),
    ]
    # What is no object is for the registry to refuse.
    assert rows[-1].sent == b"5"


@pytest.mark.parametrize("size", [MAX_ROW_BYTES, 5 * MAX_ROW_BYTES])
def test_a_line_that_is_too_long_is_skipped(size: int) -> None:
    long = orjson.dumps({**ADA, "name": "x" * size})
    rows = ndjson(long, orjson.dumps(ADA))
    assert [(row.line, bool(row.wrong)) for row in rows] == [(1, True), (2, False)]
    assert ndjson(long)[0].wrong == "longer than 16384 bytes"


def test_a_long_line_of_little_is_none_that_is_too_long() -> None:
    (row,) = ndjson(orjson.dumps({**ADA, "more": "x" * (MAX_ROW_BYTES - 100)}))
    assert orjson.loads(row.sent) == ADA


def test_cells_may_hold_anything() -> None:
    name = 'Ada, "the first"\r\nline'
    quoted = name.replace('"', '""')
    rows = csv(f'\ufeffid,name,email\r\nada,"{quoted}",a@b.c\r\n\r\nbob,=1+1,b@b.c\r\n')
    assert [orjson.loads(row.sent)["name"] for row in rows] == [name, "=1+1"]
    assert [row.line for row in rows] == [3, 5]


def test_a_row_with_other_cells_is_wrong() -> None:
    assert csv("id,name,email\na,b\n") == [Row(2, b"", "2 cells, not 3")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,name\n", "the first line names no column email"),
        ("", "the first line names no column id, name, email"),
        ('id,name,email\na,b,c\na,"b"x,c\n', "line 3: "),
        (b"id,name,email\n\xff,b,c\n", "after line .: not UTF-8"),
        ('id,name,email\na,"b', "line .: unexpected end of data"),
    ],
)
def test_a_file_that_is_no_csv_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        csv(text)


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_users_are_counted_as_they_pass(step: int) -> None:
    text = b'id,name,email\r\na,"b ""c""\r\nd",e\r\nf,g,h\r\n'
    counter = Counter("csv")
    for begin in range(0, len(text), step):
        counter.add(text[begin : begin + step])
    assert counter.users == 2
    lines = Counter("ndjson")
    lines.add(b'{"name":"\\""}\n{}\n')
    assert lines.users == 2
