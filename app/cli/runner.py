"""Ends every command: with its own exit status, or with one line that says why. No tracebacks."""

import asyncio
import traceback
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from app.config.settings import EXIT_USAGE
from app.domain.errors import RegistryError
from app.kafka.client_errors import say_it_in_one_line

#: Exit status of a command that Ctrl-C ended, as shells report it. The status of click is 1.
EXIT_INTERRUPTED = 130

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], interrupted: str = "interrupted") -> T:
    """Run a coroutine and return its result. If it fails, end the command as `one_line` does."""
    with one_line(interrupted):
        return asyncio.run(work)


@contextmanager
def one_line(interrupted: str = "interrupted") -> Iterator[None]:
    """If the block fails, or Ctrl-C is pressed, end the command with one line on standard error."""
    say_it_in_one_line()
    try:
        yield
    except RegistryError as error:
        end(str(error), error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        end(interrupted, EXIT_INTERRUPTED)
    except click.ClickException:
        raise
    except Exception as error:
        # The text of such an error may hold personal data. The place where it was raised does not.
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(where.filename).name}, line {where.lineno}"
        end(f"not done: unexpected {type(error).__name__} in {at}", EXIT_USAGE)


def end(why: str, status: int) -> NoReturn:
    """Print a line to standard error, and exit with a status."""
    click.echo(why, err=True)
    raise SystemExit(status) from None
