"""Request ids: logs the position of a write under the id of its request."""

import re

import structlog
from aiohttp import web

from app.web.http import spans
from app.web.http.problems import Handler

log = structlog.get_logger(__name__)

HEADER = "X-Request-Id"

#: Nothing that could break a line of a log, or be anyone's name with a space in it.
_ID = re.compile("[A-Za-z0-9._-]{1,64}")


@web.middleware
async def echo_request_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give a request's id back, and let what is logged for it have it."""
    request_id = _id_of(request)
    if request_id is None:
        return await handler(request)
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        answer = await handler(request)
    if not answer.prepared:
        answer.headers[HEADER] = request_id
    return answer


def note_acknowledged(request: web.Request, *positions: str) -> None:
    """Tell where the writes of a request stand: its span, and the log if the request has an id."""
    spans.note_positions(request, positions)
    if _id_of(request) is not None:
        for position in positions:
            log.info("write acknowledged", position=position)


def _id_of(request: web.Request) -> str | None:
    given = request.headers.get(HEADER, "")
    return given if _ID.fullmatch(given) else None
