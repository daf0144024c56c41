"""Notices whether files have changed."""

from pathlib import Path

#: What differs if a file was written, replaced or given other rights; None if there is no file.
FileFingerprint = tuple[int, int, int] | None


def fingerprint_of(path: Path) -> FileFingerprint:
    """Return the stamp of a file as it is now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino
