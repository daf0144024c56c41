"""The audit log of commands: who did what at the command line, and whether it was done."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.access.audit import CommandAudit
from app.config.settings import Settings


@contextmanager
def audited(settings: Settings, what: str, **members: object) -> Iterator[None]:
    """Write a line about what is done in this block; raise `SettingsError` if that cannot be."""
    audit = CommandAudit(settings)
    try:
        yield
    except (KeyboardInterrupt, click.Abort):
        audit.note(what, "interrupted", None, **members)
        raise
    except Exception:
        audit.note(what, "failed", None, **members)
        raise
    audit.note(what, "done", None, **members)
