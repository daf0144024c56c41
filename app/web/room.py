"""Room for what requests hold in memory: who needs more than is left waits for it, in order."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from app.errors import OverloadedError

#: How long a request waits for room, and how many may.
WAIT_SECONDS, MAX_WAITING = 5.0, 100


class _Wish(NamedTuple):
    client: str
    size: int
    turn: "asyncio.Future[None]"


class Room:
    """So many bytes for all requests together, and half of them for one client."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._most_of_client = size // 2
        self._of_client: Counter[str] = Counter()
        self._waiting: deque[_Wish] = deque()

    @asynccontextmanager
    async def take(self, client: str, size: int) -> AsyncIterator[None]:
        """Hold so many while the context lasts; raise `OverloadedError` if there are none in time.

        Who needs more than one client may have gets that.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise OverloadedError(_TOO_MUCH)
        size = min(size, self._most_of_client)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(_Wish(client, size, turn))
        self._serve()
        try:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await turn
            except TimeoutError:
                raise OverloadedError(_TOO_MUCH) from None
            yield
        finally:
            if turn.cancelled() or not turn.done():
                turn.cancel()
            else:
                self._change(client, -size)
            self._serve()

    def _serve(self) -> None:
        """Give room to those whose turn it is; who waits for its own requests holds up nobody."""
        waiting, self._waiting = self._waiting, deque()
        is_full = False
        for wish in waiting:
            if wish.turn.cancelled():
                continue
            has_its_share = self._of_client[wish.client] + wish.size > self._most_of_client
            is_full = is_full or (not has_its_share and wish.size > self._left)
            if is_full or has_its_share:
                self._waiting.append(wish)
            else:
                self._change(wish.client, wish.size)
                wish.turn.set_result(None)

    def _change(self, client: str, size: int) -> None:
        self._left -= size
        self._of_client[client] += size
        if not self._of_client[client]:
            del self._of_client[client]


_TOO_MUCH = "too many large requests are under way"
