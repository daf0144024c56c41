"""The audit log of commands: who did what at the command line, and whether it was done."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.access.audit import CommandAudit
from app.config.settings import Settings
from app.domain.errors import RegistryError


@contextmanager
def audited(settings: Settings, what: str, **members: object) -> Iterator[None]:
    """Write a line about what is done in this block; raise `SettingsError` if that cannot be."""
    audit = CommandAudit(settings)
    try:
        yield
    except RegistryError:
        audit.note(what, "failed", None, **members)
        raise
    audit.note(what, "done", None, **members)
