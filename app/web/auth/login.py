"""Login to the pages with a key, and logout."""

import re

from aiohttp import web

from app.web.auth.access import ACCESS, COOKIE, require_same_site
from app.web.auth.auditing import note
from app.web.http.bodies import form_of
from app.web.http.negotiation import page
from app.web.http.proxies import is_https
from app.web.pages import rendering

routes = web.RouteTableDef()

#: A path on this host, and its query, in the characters of URLs. It never leads to another host,
#: whatever a browser makes of slashes, backslashes and control characters.
_HERE = re.compile(r"/(?:[!-.0-\[\]-~][!-\[\]-~]*)?")


@routes.get("/login")
async def show_login(request: web.Request) -> web.Response:
    """Show the login form."""
    return page(rendering.login(here_or_home(request.query.get("next", "")), None))


@routes.post("/login")
async def log_in(request: web.Request) -> web.Response:
    """Begin a session if the key is valid, and redirect to where the person came from."""
    require_same_site(request)
    access = request.app[ACCESS]
    form = await form_of(request)
    target = here_or_home(form.get("next", ""))
    key = access.ring.find(form.get("key", "").strip())
    if key is None:
        asks = {"WWW-Authenticate": "Bearer"}
        return page(
            rendering.login(target, "This key is not known, or not valid any more."), 401, asks
        )
    note(request, who=key.name)
    answer = _lead_to(target)
    answer.set_cookie(
        COOKIE,
        access.sessions.begin(key.id),
        max_age=int(access.sessions.lifetime.total_seconds()),
        httponly=True,
        secure=is_https(request),
        samesite="Lax",
    )
    return answer


@routes.post("/logout")
async def log_out(request: web.Request) -> web.Response:
    """End the session of this browser."""
    require_same_site(request)
    answer = _lead_to("/login")
    answer.del_cookie(COOKIE, httponly=True, secure=is_https(request), samesite="Lax")
    return answer


def here_or_home(target: str) -> str:
    """Return a path on this host unchanged, and the home page for anything else."""
    path = target.partition("?")[0]
    return target if _HERE.fullmatch(target) and "//" not in path else "/"


def _lead_to(target: str) -> web.Response:
    headers = {"Location": target, "Cache-Control": "no-store"}
    return web.Response(status=303, headers=headers)
