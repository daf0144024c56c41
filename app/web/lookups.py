"""Lookups over HTTP, as JSON or as a page by what the client accepts."""

from aiohttp import web
from pydantic import TypeAdapter

from app.lookups import FORWARDED_HEADER
from app.records import User
from app.web import pages
from app.web.negotiation import json, wants_page
from app.web.problems import ProblemError
from app.web.services import services
from app.web.urls import rest_of_path

routes = web.RouteTableDef()

_USERS = TypeAdapter(list[User])


@routes.get("/users/{id:.+}")
async def get_user(request: web.Request) -> web.Response:
    """Show the user whose id is in the path."""
    return await _show(request, rest_of_path(request, "/users/"))


@routes.get("/users")
async def get_users(request: web.Request) -> web.Response:
    """Show the user whose id is in the query."""
    user_id = request.query.get("id")
    if not user_id:
        raise ProblemError(400, "malformed", "Say which user: /users?id=…")
    return await _show(request, user_id)


@routes.get("/registrations")
async def get_registrations(request: web.Request) -> web.Response:
    """List the newest registrations, newest first."""
    newest = await services(request).lookups.newest(forwarded=_is_forwarded(request))
    return json(_USERS.dump_json(newest.users))


async def _show(request: web.Request, user_id: str) -> web.Response:
    user = await services(request).lookups.find(user_id, forwarded=_is_forwarded(request))
    if wants_page(request):
        return pages.show_user(request, user_id, user)
    if user is None:
        raise ProblemError(404, "unknown-user", "No user is registered under this id.")
    return json(user.encode())


def _is_forwarded(request: web.Request) -> bool:
    return FORWARDED_HEADER in request.headers
