"""Dead letters on a terminal. Only printable characters reach it."""

import json
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.dead_letters.letters import Letter, Original
from app.dead_letters.listing import Cause
from app.dead_letters.replay import ReplayResult
from app.domain.consumed_records import is_text
from app.domain.records import moment

#: The width of a table that goes to a pipe.
WIDTH_WITHOUT_TERMINAL = 160


def escaped(text: str) -> str:
    r"""Return a text in which each unprintable character is written as ``\u001b``."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def escaped_bytes(data: bytes) -> str:
    r"""Return bytes as text, what is no UTF-8 as ``\xff`` and backslashes doubled."""
    return escaped(data.replace(b"\\", b"\\\\").decode(errors="backslashreplace"))


def body(value: bytes | None) -> str:
    """Return a record's value as printable text: indented if it is JSON, else its bytes."""
    if value is None:
        return "null"
    try:
        pretty = json.dumps(json.loads(value), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return escaped_bytes(value)
    return "\n".join(map(escaped, pretty.split("\n")))


def console() -> Console:
    """Return the console for tables."""
    made = Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made = Console(highlight=False, markup=False, emoji=False, width=WIDTH_WITHOUT_TERMINAL)
    return made


def causes_table(causes: Sequence[Cause], *, marked: bool) -> Table:
    """Return the causes of letters as a table."""
    table = _table("mark" if marked else "cause", "letters", "oldest", "newest")
    for cause in causes:
        _add(table, cause.cause, f"{cause.count:,}", moment(cause.oldest), moment(cause.newest))
    return table


def letters_table(letters: Iterable[Letter], *, with_ids: bool, marked: bool) -> Table:
    """Return letters as a table."""
    columns = ("mark", "replayed as") if marked else ("cause", "detail", "bytes", "by")
    table = _table("position", "time", *columns, *(("id",) if with_ids else ()))
    for letter in letters:
        told = (
            (letter.mark, letter.replayed_as)
            if marked
            else (letter.cause, letter.detail, f"{letter.size:,}", letter.by)
        )
        ids = (letter.id,) if with_ids else ()
        _add(table, letter.position.token(), moment(letter.timestamp), *told, *ids)
    return table


#: These columns are never cut or wrapped, because people copy them.
_WHOLE = ("position", "time", "replayed as", "oldest", "newest")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in ("letters", "bytes") else "left",
            no_wrap=column in _WHOLE,
            overflow="ignore" if column in _WHOLE else "fold",
        )
    return table


def _add(table: Table, *cells: str | None) -> None:
    table.add_row(*(Text(escaped(cell or "")) for cell in cells))


def sheet(letter: Letter, original: Original | None) -> Iterable[str]:
    """Yield the lines that show a whole letter."""
    told = {
        "position": letter.position.token(),
        "topic": letter.topic,
        "partition": str(letter.position.partition),
        "offset": str(letter.position.offset),
        "cause": letter.cause,
        "detail": letter.detail,
        "dead letter since": moment(letter.timestamp),
        "mark": letter.mark,
        "replayed as": letter.replayed_as,
        "written by": letter.by,
        "bytes": f"{letter.size:,}",
    }
    yield from (f"{name}: {escaped(value)}" for name, value in told.items() if value)
    if original is None:
        yield "original: " + _why_missing(letter)
        return
    yield f"record time: {moment(original.timestamp)}"
    yield f"key: {'null' if original.key is None else escaped_bytes(original.key)}"
    for name, header in original.headers:
        yield f"header {_shown(name)}: {escaped_bytes(header or b'')}"
    yield "value:"
    yield body(original.value)


def _shown(name: str) -> str:
    if is_text(name):
        return escaped(name)
    return escaped_bytes(name.encode(errors="surrogateescape"))


def _why_missing(letter: Letter) -> str:
    if letter.too_large:
        return "too large to be kept here; it is at its position as long as records are kept"
    return "not kept" if letter.is_open else f"{letter.mark}: nothing of it is kept here"


def outcome(told: ReplayResult) -> str:
    """Return the line that says what became of a letter."""
    position = told.letter.position.token()
    if told.refused is not None:
        return f"{position} refused: {escaped(told.refused)}"
    if told.replayed_as is None:
        return f"{position} would be replayed"
    return f"{position} replayed as {told.replayed_as.token()}"
