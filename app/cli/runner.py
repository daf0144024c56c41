"""How every command ends: by its own status, or with one line that says why. Never a traceback."""

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

#: Exit status of a command that Ctrl-C ended, as shells have it. click's own is 1.
EXIT_INTERRUPTED = 130

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], interrupted: str = "interrupted") -> T:
    """Return what some work comes to; end the command if it fails, as `one_line` does."""
    with one_line(interrupted):
        return asyncio.run(work)


@contextmanager
def one_line(interrupted: str = "interrupted") -> Iterator[None]:
    """End the command with one line on standard error if something fails, or Ctrl-C is pressed."""
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
        # The text of such an error may be personal, where it was raised is not.
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(where.filename).name}, line {where.lineno}"
        end(f"not done: unexpected {type(error).__name__} in {at}", EXIT_USAGE)


def end(why: str, status: int) -> NoReturn:
    """End the command with a line and a status."""
    click.echo(why, err=True)
    raise SystemExit(status) from None
