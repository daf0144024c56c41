"""Memory: gives freed memory back to the system, and ends a worker that gets no more.

The C library keeps freed memory that lies between what is still in use: after a burst of writes, a
hundred MiB. Asked to, glibc gives whole pages back (malloc_trim(3)); that takes some 15 ms.

After an allocation has failed the next one fails as well, wherever it is made: in a handler, in a
log line, in what should end the worker. One that goes on may hang, neither alive nor ended.
"""

import asyncio
import ctypes
import mmap
import os
import resource
import threading
from pathlib import Path
from typing import NoReturn

from mode import Service

LOOK_SECONDS = 10.0
#: Memory is given back only if so much was taken since the last time.
WORTH_BYTES = 32 * 1024 * 1024

#: How often to try whether memory is left, how much, and how many failures end the worker.
TRY_SECONDS, TRY_BYTES, FAILURES = 1.0, 1024 * 1024, 3

#: It is made now, because later there may be no memory for it.
_LAST_LINE = b"out of memory: the worker ends; see docs/operations.md\n"
EXIT_OUT_OF_MEMORY = 1

_STATM = Path("/proc/self/statm")


class Memory(Service):
    """Gives memory back from time to time."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = resident_bytes()
        self._is_over = threading.Event()

    async def on_start(self) -> None:
        """Begin to check."""
        self.add_future(self._look_often())
        # A thread, because the event loop may hang when memory is used up.
        threading.Thread(target=_try_often, args=(self._is_over,), daemon=True).start()

    async def on_stop(self) -> None:
        """Stop checking."""
        self._is_over.set()

    async def _look_often(self) -> None:
        while not self.should_stop:
            await self.sleep(LOOK_SECONDS)
            if resident_bytes() - self._kept >= WORTH_BYTES:
                # It releases Python's lock: code that allocates nothing continues.
                await asyncio.to_thread(give_back)
                self._kept = resident_bytes()


def _try_often(is_over: threading.Event) -> None:
    failures = 0
    try:
        while not is_over.wait(TRY_SECONDS):
            failures = 0 if _is_there_more() else failures + 1
            if failures == FAILURES:
                end_worker()
    except MemoryError:
        end_worker()


def _is_there_more() -> bool:
    try:
        mmap.mmap(-1, TRY_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True


def end_if_none_is_left(error: BaseException | None) -> None:
    """End the worker if an error says that memory is used up."""
    while error is not None:
        if isinstance(error, MemoryError):
            end_worker()
        error = error.__cause__ or error.__context__


def end_worker() -> NoReturn:
    """End at once, with one line. Nothing else works reliably now."""
    os.write(2, _LAST_LINE)
    os._exit(EXIT_OUT_OF_MEMORY)


def resident_bytes() -> int:
    """Return how much memory this process uses; 0 if the system does not say."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def give_back() -> None:
    """Give free memory back. C libraries other than glibc do so themselves."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
