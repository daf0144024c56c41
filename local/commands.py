"""How the commands of this package end: every error is one line and an exit status."""

import logging
import traceback
from typing import Any

import click

from app.system.files import private
from local.console import complain
from local.errors import LocalError
from local.places import cache_folder

#: Where the whole story of an unexpected error goes.
ERROR_LOG = cache_folder() / "errors.log"
EXIT_UNEXPECTED = 1


class OneLineErrors(click.Group):
    """A group of commands that shows errors as one line each, and never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a `LocalError` ends the program with its line and its status."""
        # Attempts to reach a broker that is only starting are no news.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        with private():
            return self._invoked(ctx)

    def _invoked(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LocalError as error:
            complain(str(error))
            ctx.exit(error.exit_status)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            complain(f"unexpected {type(error).__name__}: {error}; details: {write_down(error)}")
            ctx.exit(EXIT_UNEXPECTED)


def write_down(error: Exception) -> str:
    """Append the traceback of an error to the error log, and return where that is."""
    try:
        ERROR_LOG.parent.mkdir(parents=True, exist_ok=True)
        with ERROR_LOG.open("a") as log:
            traceback.print_exception(error, file=log)
    except OSError as reason:
        return f"none, as {ERROR_LOG} cannot be written ({reason.strerror})"
    return str(ERROR_LOG)
