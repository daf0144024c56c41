"""Whether files have changed since they were last read."""

from pathlib import Path

#: What differs if a file was written, replaced or given other rights; None if there is no file.
Stamp = tuple[int, int, int] | None


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file as it is now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino
