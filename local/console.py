"""What the commands of this package say, and how their errors end: one line, never a traceback."""

from contextlib import suppress

from rich.console import Console

#: Progress goes to standard output, errors to standard error; neither needs a terminal.
console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str, style: str | None = None) -> None:
    """Print one line of progress, as it is."""
    # A terminal that was closed must not keep anything from being stopped in order.
    with suppress(OSError):
        console.print(line, style=style, markup=False)


def complain(line: str) -> None:
    """Print one line about an error, as it is, to standard error."""
    with suppress(OSError):
        error_console.print(line, style="red", markup=False)
