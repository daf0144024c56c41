"""Where this package keeps what it fetches, and what its commands are called."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
#: Whether the package is part of a checkout, where make runs it. Else it was installed.
IS_CHECKOUT = (PROJECT / "pyproject.toml").exists()


def cache_folder() -> Path:
    """Return where fetched files are kept: of a checkout, or of whoever has installed the package.

    That is as the XDG Base Directory Specification has it.
    """
    if IS_CHECKOUT:
        return PROJECT / ".cache"
    named = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored, the specification says.
    above = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return above / "user-registry"


def start_folder() -> Path:
    """Return where processes are started: where they find their modules, if nowhere else."""
    return PROJECT if IS_CHECKOUT else Path.cwd()


def named(command: str) -> str:
    """Return what people type for a command."""
    return f"`{'make' if IS_CHECKOUT else 'user-registry'} {command}`"
