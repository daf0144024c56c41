"""The progress bar: on standard error, and only if that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

#: Is told what is read, and how many offsets further that is.
Advance = Callable[[str, int], None]


@contextmanager
def bar(offsets: int) -> Iterator[Advance]:
    """Show how much of so many offsets is read."""
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=offsets)

        def advance(description: str, further: int) -> None:
            progress.update(task, description=description, advance=further)

        yield advance
