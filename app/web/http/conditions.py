"""Requests that depend on a user's state: RFC 9110, section 13.

A tag names the version and the position of a user. `If-Match` goes into the record, and is decided
where the row is; `If-None-Match` saves an answer that the client has already.
"""

import re
from collections.abc import Mapping

from aiohttp import web
from aiohttp.helpers import ETag

from app.domain.positions import PATTERN
from app.domain.records import Condition, User
from app.web.http.problems import ProblemError

#: After a version and a position: the user waits for a verdict, which changes neither.
_PENDING = "-pending"
#: A version, as a regular expression; longer ones are no number of JavaScript's.
VERSION = "[1-9][0-9]{0,14}"
_TAG = re.compile(f"({VERSION})-({PATTERN})(?:{_PENDING})?")
_ANY = "*"

_MISMATCH = "If-Match names no state that this user can have; nothing was changed."


def etag(user: User) -> str:
    """Return the header ``ETag`` of a user: another one as soon as a lookup shows another user."""
    return f'"{user.version}-{user.position}{_PENDING if user.status == "pending" else ""}"'


def tagged(user: User) -> Mapping[str, str]:
    """Return the headers that name the state of a user. A copy may lack writes, and has none."""
    return {} if user.stale_seconds else {"ETag": etag(user)}


def if_match(request: web.Request) -> Condition:
    """Return the state of a user that a change is for; an empty one if it is for any.

    Raises `ProblemError` if no user can be in the state.
    """
    # What aiohttp finds in an empty header is what it finds in none.
    given = request.if_match or ()
    if "If-Match" not in request.headers or ETag(is_weak=False, value=_ANY) in given:
        return {}
    if not given:
        raise ProblemError(400, "malformed", 'If-Match takes an ETag in quotes, or "*" without.')
    # Weak tags never match here: RFC 9110, section 13.1.1.
    strong = (_TAG.fullmatch(each.value) for each in given if not each.is_weak)
    states = {(int(found[1]), found[2]) for found in strong if found}
    if not states:
        raise ProblemError(412, "version-mismatch", _MISMATCH)
    if len(states) > 1:
        raise ProblemError(400, "malformed", "If-Match takes one ETag of a user.")
    version, position = states.pop()
    return {"ifVersion": version, "ifPosition": position}


def unless_known(request: web.Request, answer: web.Response) -> web.Response:
    """Return an answer; 304 without a body if the client says that it has it already."""
    tag = answer.headers.get("ETag")
    known = request.if_none_match or ()
    if tag is None or not any(each.value in (_ANY, tag.strip('"')) for each in known):
        return answer
    kept = {name: answer.headers[name] for name in ("Cache-Control", "ETag", "Vary")}
    return web.Response(status=304, headers=kept)
