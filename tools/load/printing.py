"""Prints a run: a progress bar, then a table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from tools.load.latencies import PERCENTILES
from tools.load.report import Milliseconds, Report, Snapshot

_PERCENTILES = tuple(f"p{each:g}" for each in PERCENTILES)


class Bar:
    """A progress bar with rate, latencies and errors, on a terminal only."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("connecting", total=1)

    def show(self, snapshot: Snapshot) -> None:
        """Show the progress."""
        told = _line(snapshot) if snapshot.fraction else "warming up"
        self._progress.update(self._task, completed=snapshot.fraction, description=told)
        self._progress.refresh()


@contextmanager
def bar() -> Iterator[Bar | None]:
    """Show a progress bar on standard error, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    # It is drawn only when something is new: drawing costs CPU time that the run needs.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        yield Bar(progress)


def _line(snapshot: Snapshot) -> str:
    return (
        f"{snapshot.per_second:,.0f}/s  p50 {_ms(snapshot.p50_ms)}  p99 {_ms(snapshot.p99_ms)}  "
        f"refused {snapshot.refused:,}  errors {snapshot.errors:,}"
    )


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:,.1f} ms"


def print_report(told: Report, file: TextIO) -> None:
    """Print a report as tables."""
    console = Console(file=file, highlight=False)
    console.print(_title(told), soft_wrap=True)
    console.print(_counts(told))
    console.print(_latencies(told))
    for note in told.notes:
        console.print(note)


def _counts(told: Report) -> Table:
    table = Table("", "", show_header=False)
    table.columns[1].justify = "right"
    for name, value in _rows(told):
        table.add_row(name, value)
    return table


def _title(told: Report) -> str:
    options = told.options
    batch = f" of {options['batch']}" if options["mode"] != "single" else ""
    speed = f"{options['rate']:,g}/s" if options["rate"] is not None else "full speed"
    ended = ", interrupted" if told.interrupted else ""
    return f"{options['mode']}{batch}, {speed}, {options['connections']} connections{ended}"


def _rows(told: Report) -> Iterator[tuple[str, str]]:
    yield "seconds", f"{told.seconds:,.1f}"
    yield "requests", f"{told.requests:,}"
    yield "registrations", f"{told.registrations:,}"
    yield "acknowledged", f"{told.acknowledged:,}"
    yield "acknowledged a second", f"{told.registrations_per_second:,.0f}"
    yield "rejected", f"{told.rejected:,}"
    for status, refused in told.refused.items():
        yield f"refused with {status}, requests", f"{refused['requests']:,}"
        yield "  of these with Retry-After", f"{refused['with_retry_after']:,}"
        yield "  registrations in them", f"{refused['registrations']:,}"
    for kind, count in told.errors.items():
        yield f"error: {kind}", f"{count:,}"
    if told.options["retry"]:
        yield "retries", f"{told.retries:,}"
    yield "client's share of a core", f"{told.client_cpu:.0%}"


def _latencies(told: Report) -> Table:
    table = Table("milliseconds", *_PERCENTILES, "max")
    for column in table.columns[1:]:
        column.justify = "right"
    rows: dict[str, Milliseconds] = {
        "response time": told.response_ms,
        "service time": told.service_ms,
        "refusals": told.refusal_ms,
    }
    for name, found in rows.items():
        if found is not None:
            table.add_row(name, *(f"{found[each]:,.1f}" for each in (*_PERCENTILES, "max")))
    return table
