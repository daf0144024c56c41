"""``make clean-data``: removes the data, or says what is left. Runs without an installation.

So it imports nothing but the standard library, and is a program of its own.
"""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

#: Its presence says that everything in a folder is ours.
MARKER = ".user-registry"

#: Of what could not be removed, so much is named.
_NAMED = 5


def main() -> int:
    """Remove what DATA_DIR names; return the exit status."""
    named = os.environ.get("DATA_DIR", "").strip() or "data"
    try:
        return _remove(Path(named).expanduser())
    except (OSError, RuntimeError) as error:  # of a home that nobody has
        return _complain(f"Not removed: {named} ({getattr(error, 'strerror', None) or error}).")


def _remove(named: Path) -> int:
    """Remove a data folder, which may be named by a link; return the exit status."""
    if not os.path.lexists(named):
        return 0
    folder = Path(os.path.realpath(named))
    if not (folder / MARKER).is_file():
        return _complain(f"{named} is not the registry's: left alone.")
    left = list(_emptied(folder, folder))
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        return _complain(f"Not removed: {', '.join(left[:_NAMED])}{more}.")
    # Until here, another try would have begun with it.
    (folder / MARKER).unlink()
    return _remove_empty(named, folder)


def _emptied(folder: Path, data: Path) -> Iterator[str]:
    """Remove what is in a folder but the marker; yield what is still there, and why."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield _told(folder, error)
        return
    for entry in entries:
        path = Path(entry.path)
        if path == data / MARKER:
            continue
        if entry.is_symlink() and _leads_out(path, data):
            yield f"{os.path.realpath(path)} (a link leads there)"
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                left = list(_emptied(path, data))
                yield from left
                if not left:
                    _remove_folder(path)
            else:
                path.unlink()
        except OSError as error:
            yield _told(path, error)


def _leads_out(link: Path, data: Path) -> bool:
    target = Path(os.path.realpath(link))
    return target.exists() and data not in target.parents


def _remove_folder(folder: Path) -> bool:
    """Remove an empty folder; return False for one that something is mounted on: that stays."""
    try:
        folder.rmdir()
    except OSError as error:
        # So does one that holds such a folder.
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def _remove_empty(named: Path, folder: Path) -> int:
    """Remove a data folder without data, and the link to it."""
    try:
        is_gone = _remove_folder(folder)
        if is_gone and named.is_symlink():
            named.unlink()
    except OSError:
        is_gone = False
    print(f"Removed {named}." if is_gone else f"Removed the data in {named}; the folder stays.")
    return 0


def _told(path: Path, error: OSError) -> str:
    return f"{path} ({error.strerror})"


def _complain(line: str) -> int:
    print(line, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
