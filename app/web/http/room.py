"""A memory budget for requests: who needs more than is left waits in order."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from aiohttp import web

from app.domain.errors import OverloadedError
from app.web.http.clients import client_of
from app.web.http.problems import Handler

#: How long a request waits for room; how many may, and of one client: else all its connections do.
WAIT_SECONDS, MAX_WAITING, MAX_WAITING_OF_CLIENT = 5.0, 100, 8


class _Wish(NamedTuple):
    client: str
    size: int
    turn: "asyncio.Future[None]"


class MemoryBudget:
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
        of_client = sum(command.client == client for command in self._waiting)
        if len(self._waiting) >= MAX_WAITING or of_client >= MAX_WAITING_OF_CLIENT:
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
        for command in waiting:
            if command.turn.cancelled():
                continue
            has_its_share = self._of_client[command.client] + command.size > self._most_of_client
            is_full = is_full or (not has_its_share and command.size > self._left)
            if is_full or has_its_share:
                self._waiting.append(command)
            else:
                self._change(command.client, command.size)
                command.turn.set_result(None)

    def _change(self, client: str, size: int) -> None:
        self._left -= size
        self._of_client[client] += size
        if not self._of_client[client]:
            del self._of_client[client]


_TOO_MUCH = "too many large requests are under way"

_MIB = 1024 * 1024
#: What may be held: bodies while they come, what they are parsed to, and users that are shown.
COMING = web.AppKey("coming", MemoryBudget)
PARSED = web.AppKey("parsed", MemoryBudget)
SHOWN = web.AppKey("shown", MemoryBudget)
SIZES = {COMING: 64 * _MIB, PARSED: 128 * _MIB, SHOWN: 64 * _MIB}
#: How many exports are under way.
EXPORTS = web.AppKey("exports", MemoryBudget)
MAX_EXPORTS = 4

#: What a user takes until it is shown, about.
USER_BYTES = 4 * 1024

#: Who does something that takes milliseconds.
TURN = web.AppKey("turn", asyncio.Lock)

#: The room that a request has until it is answered.
_HELD = web.RequestKey("held", AsyncExitStack)


def install(web_app: web.Application) -> None:
    """Bound what requests hold, all together."""
    for key, size in SIZES.items():
        web_app[key] = MemoryBudget(size)
    web_app[EXPORTS] = MemoryBudget(MAX_EXPORTS)
    web_app[TURN] = asyncio.Lock()
    web_app.middlewares.append(_give_back)


@web.middleware
async def _give_back(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    finally:
        if _HELD in request:
            await request[_HELD].aclose()


@asynccontextmanager
async def turn(request: web.Request) -> AsyncIterator[None]:
    """Do what takes milliseconds, one request after the other: others have the loop between."""
    async with request.app[TURN]:
        yield
        await asyncio.sleep(0)


async def hold(request: web.Request, room: web.AppKey[MemoryBudget], size: int) -> None:
    """Take room for a request until it is answered; raise `OverloadedError` if there is none."""
    if _HELD not in request:
        request[_HELD] = AsyncExitStack()
    taking = request.app[room].take(client_of(request), size)
    await request[_HELD].enter_async_context(taking)
