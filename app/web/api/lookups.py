"""Lookups over HTTP, as JSON or as a page by what the client accepts."""

import re
from collections.abc import Iterable, Mapping

import orjson
from aiohttp import web

from app.domain.positions import Position
from app.domain.records import User, is_email
from app.query.listing import MAX_PREFIX, Wanted, id_before
from app.query.newest import NEWEST_USERS, Place, place_before
from app.query.partition_query import Found
from app.web.auth.access import is_forwarded
from app.web.http.conditions import tagged, unless_known
from app.web.http.negotiation import json, wants_page
from app.web.http.preferences import after, wait_seconds, waits_in_query
from app.web.http.problems import ProblemError
from app.web.http.room import SHOWN, USER_BYTES, hold
from app.web.http.urls import rest_of, rest_of_path
from app.web.outcomes import (
    NOBODY_UNDER_ID,
    NOBODY_WITH_EMAIL,
    unknown_position,
    unknown_user,
)
from app.web.pages import pages
from app.web.services import services

routes = web.RouteTableDef()

#: Users in a page of a list: the default, and the maximum.
PAGE_USERS = 100
MAX_PAGE_USERS = 1_000

#: For how long an answer from a copy may lack writes.
STALE_HEADER = "Registry-Stale-Seconds"

_LIMIT = re.compile("[0-9]{1,4}")


@routes.get(rest_of("/users", "id"))
async def get_user(request: web.Request) -> web.Response:
    """Show the user whose id is in the path."""
    return await _show(request, rest_of_path(request, "/users/"))


@routes.get("/users")
async def get_users(request: web.Request) -> web.Response:
    """Show the user whose id, or email address, is in the query; else list users."""
    user_id, email = request.query.get("id"), request.query.get("email")
    if user_id is None and email is None:
        return await _list(request)
    if user_id and email is None:
        return await _show(request, user_id)
    if email and user_id is None:
        return await _show_by_email(request, email)
    raise ProblemError(400, "malformed", "Say which user: /users?id=… or /users?email=…")


@routes.get("/counts")
async def get_counts(request: web.Request) -> web.Response:
    """Tell how many users there are, in all and by the day of their registration."""
    forwarded = is_forwarded(request)
    counted = await services(request).lookups.count(after=after(request), forwarded=forwarded)
    if forwarded:
        return json(counted.encode())
    return json(orjson.dumps(counted.members()), headers=_stale(counted.stale_seconds))


@routes.get("/registrations")
async def get_registrations(request: web.Request) -> web.Response:
    """List the newest registrations, newest first, as far back as they are remembered."""
    forwarded = is_forwarded(request)
    limit, before = _limit(request, NEWEST_USERS), place_before(request.query.get("cursor"))
    await hold(request, SHOWN, limit * USER_BYTES)
    newest = await services(request).lookups.newest(limit, before=before, forwarded=forwarded)
    body: dict[str, object] = {"users": _fragments(newest.users)}
    if newest.has_more:
        body["next"] = Place.of(newest.users[-1]).cursor()
    if newest.missing:
        body["missing_partitions"] = newest.missing
    if forwarded:
        body |= {
            "partitions": sorted(newest.partitions),
            "forgotten": newest.forgotten and tuple(newest.forgotten),
        }
    return json(orjson.dumps(body))


@routes.get("/registrations/{position}")
async def get_registration(request: web.Request) -> web.Response:
    """Tell what became of the write at a position."""
    position = Position.parse(request.match_info["position"])
    seconds = max(wait_seconds(request), waits_in_query(request))
    told = await services(request).lookups.outcome(
        position, seconds, forwarded=is_forwarded(request)
    )
    if told is None:
        raise unknown_position()
    return json(orjson.dumps(told.members()))


@routes.get(rest_of("/email-holders", "key"))
async def get_email_holder(request: web.Request) -> web.Response:
    """Tell another worker who holds the address with a key."""
    if not is_forwarded(request):
        raise ProblemError(404, "not-found", "Not Found")
    found = await services(request).lookups.holder(
        rest_of_path(request, "/email-holders/"),
        caught_up=request.query.get("caught_up") == "1",
        forwarded=True,
    )
    return json(encode_holder(found))


async def _show(request: web.Request, user_id: str) -> web.Response:
    if wants_page(request):
        return await pages.show_user(request, user_id)
    lookups = services(request).lookups
    forwarded = is_forwarded(request)
    user = await lookups.find(user_id, after=after(request), forwarded=forwarded)
    return unless_known(request, shown(user))


def shown(user: User | None, nobody: str = NOBODY_UNDER_ID) -> web.Response:
    """Return the user that was looked up, as JSON."""
    if user is None:
        raise unknown_user(nobody)
    return json(user.encode(), headers={**tagged(user), **_stale(user.stale_seconds)})


def encode_holder(found: Found[str | None]) -> bytes:
    """Return as JSON who holds an address, for another worker."""
    return orjson.dumps({"id": found.value, "stale_seconds": found.stale_seconds})


async def _show_by_email(request: web.Request, email: str) -> web.Response:
    if not is_email(email):
        raise ProblemError(400, "malformed", "What follows email= is no email address.")
    user = await services(request).lookups.find_by_email(email, after=after(request))
    if wants_page(request):
        return await pages.show_found(request, user)
    return unless_known(request, shown(user, NOBODY_WITH_EMAIL))


def _stale(seconds: float | None) -> Mapping[str, str]:
    return {STALE_HEADER: f"{seconds:.3f}"} if seconds else {}


async def _list(request: web.Request) -> web.Response:
    forwarded, shows = is_forwarded(request), wants_page(request)
    wanted = _wanted(request, pages.LISTED_USERS if shows else PAGE_USERS)
    await hold(request, SHOWN, wanted.limit * USER_BYTES)
    page = await services(request).lookups.page(wanted, after=after(request), forwarded=forwarded)
    if shows:
        return pages.show_list(request, wanted, page)
    body: dict[str, object] = {"users": _fragments(page.users)}
    if page.has_more:
        body["next"] = page.cursor()
    if forwarded:
        body["partitions"] = sorted(page.partitions)
    if page.stale_seconds:
        body["stale_seconds"] = round(page.stale_seconds, 3)
    return json(orjson.dumps(body), headers=_stale(page.stale_seconds))


def _fragments(users: Iterable[User]) -> list[orjson.Fragment]:
    return [orjson.Fragment(user.encode()) for user in users]


def _wanted(request: web.Request, page_users: int) -> Wanted:
    after_id = id_before(request.query.get("cursor"))
    return Wanted(prefix_of(request), _limit(request, page_users), after_id)


def _limit(request: web.Request, default: int) -> int:
    limit = request.query.get("limit", str(default))
    if not _LIMIT.fullmatch(limit) or not 1 <= int(limit) <= MAX_PAGE_USERS:
        raise ProblemError(400, "malformed", f"limit must be from 1 to {MAX_PAGE_USERS}.")
    return int(limit)


def prefix_of(request: web.Request) -> str:
    """Return the prefix of the ids that are wanted."""
    prefix = request.query.get("prefix", "")
    if len(prefix) > MAX_PREFIX:
        raise ProblemError(400, "malformed", f"prefix has more than {MAX_PREFIX} characters.")
    return prefix
