"""What a client wants to wait for: ``Prefer: wait=`` (RFC 7240) and ``?after=``."""

import re

from aiohttp import web

from app.positions import Position
from app.web.problems import ProblemError
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
