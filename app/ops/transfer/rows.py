"""Reads registrations from NDJSON or CSV, in bounded memory."""

import csv
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from io import TextIOWrapper
from typing import BinaryIO, NamedTuple

import orjson

from app.domain.compact import dumps
from app.domain.records import MEMBERS, REQUIRED
from app.ops.transfer.remote import Format, RefusedError

#: No legal row is longer as NDJSON. Servers refuse a longer row.
MAX_ROW_BYTES = 16 * 1024


class Row(NamedTuple):
    """A row: its last line, and the registration, or what is wrong with it."""

    line: int
    sent: bytes
    wrong: str = ""
    #: Whether its name is sent with blanks in place of control characters.
    is_mended: bool = False


def read_ndjson(file: BinaryIO) -> Iterator[Row]:
    """Yield the rows of a file with one JSON value in each line."""
    line = 0
    while text := file.readline(MAX_ROW_BYTES):
        line += 1
        if len(text) == MAX_ROW_BYTES and not text.endswith(b"\n"):
            _skip_line(file)
            yield _too_long(line)
        elif text.strip():
            # Some programs begin a text with a byte order mark.
            yield _parsed(line, text.removeprefix(BOM_UTF8) if line == 1 else text)


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
        pass


def _parsed(line: int, text: bytes) -> Row:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return Row(line, b"", "the line is not JSON")
    return _row(line, value)


def read_csv(file: BinaryIO) -> Iterator[Row]:
    """Yield the rows of a CSV file. Its first line names the columns."""
    # Spreadsheets write a byte order mark before the first column.
    text = TextIOWrapper(file, "utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    try:
        columns = next(reader, [])
        missing = [member for member in REQUIRED if member not in columns]
        if missing:
            raise RefusedError(f"the first line names no column {', '.join(missing)}")
        for cells in filter(None, reader):
            yield _cells(reader.line_num, columns, cells)
    except csv.Error as error:
        raise RefusedError(f"line {reader.line_num}: {error}") from None
    except UnicodeDecodeError:
        raise RefusedError(f"after line {reader.line_num}: not UTF-8") from None
    finally:
        text.detach()  # it would close the file, which is not ours


def _cells(line: int, columns: list[str], cells: list[str]) -> Row:
    if len(cells) != len(columns):
        return Row(line, b"", f"{len(cells)} cells, not {len(columns)}")
    # CSV has no missing cells: an optional member is an empty cell.
    named = zip(columns, cells, strict=True)
    return _row(line, {name: cell for name, cell in named if cell or name in REQUIRED})


def mended(row: Row) -> Row:
    """Return a row whose name has blanks in place of control characters.

    Version 0.8 accepted such names, and its exports have them.
    """
    value = None if row.wrong else orjson.loads(row.sent)
    name = value.get("name") if isinstance(value, dict) else None
    without = _CONTROLS.sub(" ", name) if isinstance(name, str) else name
    if value is None or without == name:
        return row
    return row._replace(sent=dumps({**value, "name": without}), is_mended=True)


#: Unicode's category Cc.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


def _row(line: int, value: object) -> Row:
    """Return a row with only the members of a registration."""
    if isinstance(value, Mapping):
        value = {member: value[member] for member in MEMBERS if member in value}
    sent = dumps(value)
    return _too_long(line) if len(sent) >= MAX_ROW_BYTES else Row(line, sent)


def _too_long(line: int) -> Row:
    return Row(line, b"", f"longer than {MAX_ROW_BYTES} bytes")


READERS: Mapping[Format, Callable[[BinaryIO], Iterator[Row]]] = {
    "ndjson": read_ndjson,
    "csv": read_csv,
}
