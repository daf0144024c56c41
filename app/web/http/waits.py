"""Limits the requests that wait for a write to be settled.

One too many ends the wait of who has waited longest, of the client that has most: it is told what
is known by then, or to come again.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

#: The rest of all connections, and of one client's, is for those that want to wait for nothing.
SHARE_OF_CONNECTIONS = 4


class Waits:
    """Those that wait, in the order in which they came."""

    def __init__(self, most: int = 1_000) -> None:
        self._most = most
        self._clients: dict[asyncio.Timeout, str] = {}

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """Wait for something while the context lasts; raise `TimeoutError` to make room."""
        if len(self._clients) >= self._most:
            self._make_room()
        async with asyncio.timeout(None) as ends:
            self._clients[ends] = client
            try:
                yield
            finally:
                self._clients.pop(ends, None)

    def _make_room(self) -> None:
        ((greedy, _),) = Counter(self._clients.values()).most_common(1)
        oldest = next(ends for ends, client in self._clients.items() if client == greedy)
        del self._clients[oldest]
        oldest.reschedule(asyncio.get_running_loop().time())
