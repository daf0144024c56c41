"""Memory: what a burst has freed goes back to the system.

The C library keeps freed memory that lies between what is still in use: after a burst of writes, a
hundred MiB. Asked to, glibc gives whole pages back (malloc_trim(3)); that takes some 15 ms.
"""

import asyncio
import ctypes
import resource
from pathlib import Path

from mode import Service

LOOK_SECONDS = 10.0
#: It is only done if so much was taken since the last time.
WORTH_BYTES = 32 * 1024 * 1024

_STATM = Path("/proc/self/statm")


class Memory(Service):
    """Gives memory back, now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = resident_bytes()

    async def on_start(self) -> None:
        """Begin to look."""
        self.add_future(self._look_often())

    async def _look_often(self) -> None:
        while not self.should_stop:
            await self.sleep(LOOK_SECONDS)
            if resident_bytes() - self._kept >= WORTH_BYTES:
                # It holds no lock of Python's: what allocates nothing goes on.
                await asyncio.to_thread(give_back)
                self._kept = resident_bytes()


def resident_bytes() -> int:
    """Return how much memory this process has now; 0 where the system does not tell."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def give_back() -> None:
    """Give free memory back; other C libraries than glibc do that by themselves."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
