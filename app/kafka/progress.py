"""A progress bar for commands that read topics, if standard error is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.kafka.partition_reader import Advance

#: Fewer offsets are read at once and need no bar.
MIN_OFFSETS = 5_000


@contextmanager
def bar(offsets: int) -> Iterator[Advance]:
    """Show a progress bar for a number of offsets."""
    console = Console(stderr=True)
    shows = console.is_terminal and offsets >= MIN_OFFSETS
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not shows) as progress:
        task = progress.add_task("", total=offsets)

        def advance(description: str, further: int) -> None:
            progress.update(task, description=description, advance=further)

        yield advance
