"""How long a client wants to wait: ``Prefer: wait=`` (RFC 7240) and ``?after=``."""

import re

from aiohttp import web

from app.domain.errors import NotSettledError
from app.domain.positions import Position
from app.web.http.clients import client_of, is_worker
from app.web.http.problems import Handler, ProblemError
from app.web.services import services

#: Of tRPC calls, which have no query of their own: a lookup after the write at this position.
AFTER_HEADER = "Registry-After"

_WAIT = re.compile(r'^wait\s*=\s*"?(\d{1,9})"?(?:\s*;.*)?$', re.IGNORECASE)


def wait_seconds(request: web.Request) -> float:
    """Return how long a client wants to wait for its write to be settled, within the limit."""
    if "Prefer" not in request.headers:
        return 0.0
    preferences = ",".join(request.headers.getall("Prefer", [])).split(",")
    found = (_WAIT.match(preference.strip()) for preference in preferences)
    seconds = next((int(wait[1]) for wait in found if wait), 0)
    return min(float(seconds), services(request).settings.max_wait_seconds)


def after(request: web.Request) -> Position | None:
    """Return the position of the write that a lookup must know of, or None."""
    token = request.query.get("after", request.headers.get(AFTER_HEADER))
    return None if token is None else Position.parse(token)


@web.middleware
async def bound_waits(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let no more requests wait than may: who waits for too long is told to come again.

    Of those that read; a write is told of when it is durable (`Services.wait`).
    """
    asks = {"after", "wait"} & request.query.keys() or {AFTER_HEADER, "Prefer"} & {*request.headers}
    if not asks or request.method not in ("GET", "HEAD") or is_worker(request):
        return await handler(request)
    try:
        async with services(request).waits.place(client_of(request)):
            return await handler(request)
    except TimeoutError:
        raise NotSettledError("too many requests wait for writes to be settled") from None


def waits_in_query(request: web.Request) -> float:
    """Return how long another worker wants to wait, within the limit."""
    try:
        seconds = float(request.query.get("wait", "0"))
    except ValueError:
        raise ProblemError(400, "malformed", "wait must be a number of seconds.") from None
    # Written so that no number that is none passes.
    if not seconds >= 0:
        raise ProblemError(400, "malformed", "wait must be a number of seconds.")
    return min(seconds, services(request).settings.max_wait_seconds)
