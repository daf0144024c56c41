"""``python -m app export`` and ``python -m app import``."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import BinaryIO, TypeVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    FileSizeColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from app.cli.runner import end, run
from app.config.settings import EXIT_USAGE
from app.config.target import ca_file_option, key_option
from app.ops.transfer.exporting import STDIO, export
from app.ops.transfer.importing import Imported, import_rows
from app.ops.transfer.remote import FORMATS, Format, Remote
from app.ops.transfer.rows import READERS, mended

#: Exit status of a command that did nothing, or only a part.
EXIT_NOT_DONE = 1

Result = TypeVar("Result")

_FILE_OR_DASH = click.Path(path_type=Path, dir_okay=False, allow_dash=True)

_url = click.argument("url")
_format = click.option(
    "--format",
    "name",
    type=click.Choice(FORMATS),
    help="Default: the ending of the file's name, else ndjson.",
)


@click.command("export")
@_url
@click.argument("output", type=_FILE_OR_DASH)
@_format
@click.option("--prefix", default="", metavar="TEXT", help="Only ids with this prefix.")
@key_option
@ca_file_option
def export_users(
    url: str, output: Path, name: Format | None, prefix: str, key: str | None, ca_file: Path | None
) -> None:
    """Write all users of the registry at URL to OUTPUT; - is standard output.

    The users come in the order of their ids, as NDJSON or CSV. The file appears when it is
    complete.

    Exit status: 0 done; 1 the export failed, and there is no file; 2 a wrong option, or the
    registry refuses; 130 ended by Ctrl-C.
    """
    remote = Remote(url, key, ca_file)
    with _bar() as bar:
        users = run(export(remote, name or _format_of(output), prefix, output, bar.show))
    click.echo(f"exported {users:,} users", err=True)


@click.command("import")
@_url
@click.argument("file", type=_FILE_OR_DASH)
@_format
@click.option(
    "--batch",
    type=click.IntRange(1, 1_000),
    default=1_000,
    show_default=True,
    metavar="N",
    help="Registrations in a request.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0, 86_400),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to retry a batch while the registry refuses it or is away.",
)
@click.option(
    "--mend-names",
    is_flag=True,
    help="Replace control characters in names by blanks, and report each row.",
)
@click.option(
    "--gzip", "is_packed", is_flag=True, help="Send requests packed, over a slow network."
)
@key_option
@ca_file_option
def import_users(
    url: str,
    file: Path,
    name: Format | None,
    batch: int,
    patience: float,
    mend_names: bool,
    is_packed: bool,
    key: str | None,
    ca_file: Path | None,
) -> None:
    """Register the users in FILE with the registry at URL; - is standard input.

    FILE is NDJSON or CSV. Only the members id, name and email count. Rows are sent in their order.
    You can import a file again. Each rejected row is reported on a line. An accepted registration
    can still be rejected later, if its id or address is taken: the registry has its outcome.

    Exit status: 0 all rows are accepted; 1 some are rejected, or the import failed; 2 a wrong
    option or file, or the registry refuses; 130 ended by Ctrl-C.
    """
    told = Imported(lambda line, why: click.echo(f"line {line}: {why}"))
    size = _size(file)
    with _opened(file) as source, _bar(size) as bar:

        def advance() -> None:
            rejected = f"  {told.rejected:,} rejected" if told.rejected else ""
            bar.show(told.accepted, 0 if size is None else source.tell(), rejected)

        rows = READERS[name or _format_of(file)](source)
        rows = map(mended, rows) if mend_names else rows
        remote = Remote(url, key, ca_file)
        sending = import_rows(
            remote,
            rows,
            told,
            advance,
            batch=batch,
            patience_seconds=patience,
            is_packed=is_packed,
        )
        try:
            run(sending)
        finally:
            # What was sent before an error stays registered.
            _tell(told)
    raise SystemExit(EXIT_NOT_DONE if told.rejected else 0)


def _tell(told: Imported) -> None:
    mended = f" ({told.mended:,} with another name)" if told.mended else ""
    click.echo(
        f"accepted {told.accepted:,}{mended}, rejected {told.rejected:,}, up to line {told.line:,}"
    )


def _size(file: Path) -> int | None:
    """Return the size of a regular file; None for a pipe or a device."""
    return file.stat().st_size if file.is_file() else None


def _format_of(path: Path) -> Format:
    return "csv" if path.suffix.lower() == ".csv" else "ndjson"


def _opened(file: Path) -> AbstractContextManager[BinaryIO]:
    if file == STDIO:
        return nullcontext(sys.stdin.buffer)
    try:
        return file.open("rb")
    except OSError as error:
        end(f"{file}: {error.strerror}", EXIT_USAGE)


class _Bar:
    """A progress bar on standard error, if that is a terminal: bytes and a text."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)
        self._began = monotonic()

    def show(self, users: int, size: int, more: str = "") -> None:
        """Show how many users and bytes are done."""
        rate = users / max(monotonic() - self._began, 0.001)
        told = f"{users:,} users  {rate:,.0f}/s{more}"
        self._progress.update(self._task, completed=size, description=told)


@contextmanager
def _bar(total: int | None = None) -> Iterator[_Bar]:
    """Show a progress bar. Without a total it moves to and fro."""
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        FileSizeColumn() if total is None else DownloadColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        refresh_per_second=4,
        disable=not console.is_terminal,
    ) as progress:
        yield _Bar(progress, total)
