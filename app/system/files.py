"""Writes files completely or not at all, readable for their owner only."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

#: Other users have no rights in our folders and files.
PRIVATE_UMASK = 0o077
_PRIVATE_FOLDER = 0o700
#: This much of a file's name is in the name of its draft. A name has at most 255 bytes.
_NAME_CHARACTERS = 32


@contextmanager
def private() -> Iterator[None]:
    """Make files in the block private, whatever the umask of the caller is."""
    former = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(former)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a draft that replaces a file at the end of the block; an error changes nothing.

    A file that is replaced keeps its owner and rights, a new one is its owner's alone. Of a link,
    the target is written. A pipe or device is written at once. Raises `OSError`.
    """
    target = _target(path)
    if target is None:
        with path.open("wb") as straight:
            yield straight
        return
    prefix = f".{target.name[:_NAME_CHARACTERS]}."
    with NamedTemporaryFile(dir=target.parent, prefix=prefix, suffix=".part", delete=False) as new:
        try:
            _take_after(new, target)
            yield new.file
            new.flush()
            os.fsync(new.fileno())
            Path(new.name).replace(target)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
    sync(target.parent)


def write_whole(path: Path, data: bytes | str) -> None:
    """Replace a file durably, as `whole_file` does."""
    with whole_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _target(path: Path) -> Path | None:
    """Return the file that a path leads to; None if it must be written directly."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            return None
    while path.is_symlink():
        path = Path(os.path.realpath(path.parent)) / path.readlink()
        # Standard output is a link there, too, and may lead to something without a name.
        if Path("/proc") in path.parents:
            return None
    return path


def _take_after(new: IO[bytes], former: Path) -> None:
    """Give a new file the owner, mode and access list of the file that it replaces."""
    with suppress(FileNotFoundError):
        had, has = former.stat(), os.fstat(new.fileno())
        if (had.st_uid, had.st_gid) != (has.st_uid, has.st_gid):
            os.fchown(new.fileno(), had.st_uid, had.st_gid)
        shutil.copystat(former, new.name)


def open_lock_of(path: Path) -> IO[bytes]:
    """Open the lock of a file. It is beside the file that the path leads to."""
    target = _target(path) or path
    lock = target.with_name(f".{target.name[:_NAME_CHARACTERS]}.lock")
    return open_lock(lock, target if target.exists() else target.parent)


def open_lock(lock: Path, whose: Path) -> IO[bytes]:
    """Open a lock file. It belongs to the owner of the file or folder that it is for.

    So root may be the first to lock it. Raises `OSError`.
    """
    owner = whose.stat()
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = os.fdopen(os.open(lock, flags, 0o600), "rb")
    with suppress(PermissionError):
        os.fchown(opened.fileno(), owner.st_uid, owner.st_gid)
    return opened


def sync(path: Path) -> None:
    """Make the content of a file, or the entries of a folder, durable."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def make_private(folder: Path, marker: str | None = None) -> bool:
    """Make a private folder; make an existing one private if it is empty or has the marker.

    Returns whether the folder is private. A folder with other files may be shared, and is not
    changed. Raises `OSError`.
    """
    folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    mode = folder.stat().st_mode
    is_marked = marker is not None and (folder / marker).exists()
    is_ours = is_marked or not any(folder.iterdir())
    # A sticky folder, such as /tmp, is shared on purpose.
    if is_ours and mode & PRIVATE_UMASK and not mode & stat.S_ISVTX:
        with suppress(PermissionError):
            folder.chmod(stat.S_IMODE(mode) & ~PRIVATE_UMASK)
    return is_private(folder)


def is_private(path: Path) -> bool:
    """Return whether only the owner can use a folder or file."""
    return not path.stat().st_mode & PRIVATE_UMASK
