"""Bodies of requests: whoever sends one too slowly is cut off."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from aiohttp import web

from app.web.problems import ProblemError
from app.web.services import services

T = TypeVar("T")


async def body_of(request: web.Request) -> bytes:
    """Return a body that is wholly there in time, or raise the problem of one that is not."""
    return await _in_time(request, request.read())


async def parts_of(request: web.Request) -> AsyncIterator[bytes]:
    """Yield a body of any length as it comes; each part must come in time."""
    while part := await _in_time(request, request.content.readany()):
        yield part


async def _in_time(request: web.Request, reading: Awaitable[T]) -> T:
    if request.content.is_eof():
        return await reading
    try:
        async with asyncio.timeout(services(request).settings.slow_client_seconds):
            return await reading
    except TimeoutError:
        raise ProblemError(
            408, "too-slow", "The body did not come in time.", headers={"Connection": "close"}
        ) from None
