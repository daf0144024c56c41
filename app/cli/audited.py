"""The audit log of commands: who did what, and whether it succeeded."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.access.audit import CommandAudit
from app.config.settings import Settings


@contextmanager
def audited(settings: Settings, what: str, **members: object) -> Iterator[None]:
    """Write a line about what this block does; raise `SettingsError` if that is not possible."""
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
