"""A disk that is full for one process: a file that it writes may not grow beyond a size.

Unlike a small file system, this needs no rights, and room can be made at any time. What is written
beyond the size fails with EFBIG (File too large) in place of ENOSPC (No space left on device).
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def full_disk(pid: int, max_file_bytes: int) -> Iterator[None]:
    """Let no file of a process grow beyond a size, while a block lasts."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (max_file_bytes, hard))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have ended of it
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
