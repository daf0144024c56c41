"""Notices whether files have changed."""

from pathlib import Path

#: It differs if a file was written or replaced, or its rights were changed. None: no such file.
FileFingerprint = tuple[int, int, int] | None


def fingerprint_of(path: Path) -> FileFingerprint:
    """Return the fingerprint of a file as it is now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino
