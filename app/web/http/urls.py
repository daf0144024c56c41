"""URLs: every legal id has one that browsers, proxies and clients leave unchanged."""

import re
from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote, unquote

from aiohttp import web

from app.domain.positions import Position
from app.web.http.problems import ProblemError

#: Of a name that clients made up, so much is repeated.
_SHOWN_CHARACTERS = 40

_MALFORMED_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def user_url(user_id: str) -> str:
    """Return the address of a user.

    A path segment ``.`` or ``..`` is resolved away by every client, even percent-encoded (WHATWG
    URL standard, "double-dot path segment"), so those two ids are addressed by query.
    """
    quoted = quote(user_id, safe="")
    if user_id in {".", ".."}:
        return f"/users?id={quoted}"
    return f"/users/{quoted}"


def registration_url(position: Position) -> str:
    """Return the address of what became of a write."""
    return f"/registrations/{position.token()}"


def rest_of(path: str, name: str) -> str:
    """Return the pattern of a route whose last part may hold anything, slashes and line ends too.

    So ids that are not allowed are 422 everywhere; a dot alone does not match a line end.
    """
    return f"{path}/{{{name}:(?s:.+)}}"


def rest_of_path(request: web.Request, prefix: str) -> str:
    """Return what follows a prefix in the path, decoded once, from the bytes that were sent."""
    return unquote(request.rel_url.raw_path.removeprefix(prefix))


def require_once(names: Iterable[str]) -> None:
    """Refuse a parameter or a field that is there twice: which one counts would be a guess."""
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        shown = name[:_SHOWN_CHARACTERS]
        raise ProblemError(400, "malformed", f"There is more than one {shown!r}: send it once.")


def require_escapes(encoded: str) -> None:
    """Refuse what would be decoded to something else than was meant, in addresses and forms."""
    if "%" not in encoded:
        return
    try:
        if _MALFORMED_ESCAPE.search(encoded):
            raise ValueError("a % without two hexadecimal digits")
        unquote(encoded, errors="strict")
    except ValueError:
        raise ProblemError(
            400, "malformed", "What was sent is not percent-encoded UTF-8."
        ) from None
