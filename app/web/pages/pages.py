"""Pages: the same lookups and writes, for people; they work without scripts."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from aiohttp import web
from pydantic import ValidationError

from app.access.scopes import Scope
from app.domain.errors import NotReadyError
from app.domain.outcomes import Outcome
from app.domain.positions import Position
from app.domain.records import MEMBERS, REQUIRED, User, field_errors, is_email, registrations
from app.query.listing import UsersPage, Wanted
from app.query.newest import NEWEST_USERS
from app.web.auth.access import may, require_same_site
from app.web.http import preferences
from app.web.http.bodies import form_of
from app.web.http.negotiation import LIVE_PAGE_HEADERS, page
from app.web.http.proxies import base_url
from app.web.http.urls import user_url
from app.web.outcomes import REJECTIONS
from app.web.pages import rendering
from app.web.pages.rendering import FIELDS, LastWrite, UserCard
from app.web.services import services

routes = web.RouteTableDef()

#: Users on one page of the list.
LISTED_USERS = 50

#: How long a page waits for a write before it says so, and how often it reloads.
PAGE_WAIT_SECONDS = 1.0
MAX_TRIES = 60
_TRIES = re.compile("[0-9]{1,2}")


@routes.get("/")
async def home(request: web.Request) -> web.Response:
    """Show the search box, what the registry is doing, and the newest registrations."""
    newest = await services(request).lookups.newest(NEWEST_USERS)
    cards = [card(user) for user in newest.users]
    shown = rendering.home(cards, newest.unavailable, base_url(request), await _users(request))
    return page(shown, headers=LIVE_PAGE_HEADERS)


async def _users(request: web.Request) -> rendering.UsersPlot | None:
    try:
        counted = await services(request).lookups.count()
    except NotReadyError:
        return None
    return rendering.UsersPlot.of(counted.total, datetime.now(UTC).date())


@routes.get("/register")
async def show_form(_: web.Request) -> web.Response:
    """Show the empty form."""
    return page(rendering.register({}, {}, None))


@routes.post("/register")
async def submit_form(request: web.Request) -> web.Response:
    """Handle the form: redirect to the user's page, or show the form again with its mistakes."""
    require_same_site(request)
    form = await form_of(request)
    values = {name: form.get(name, "") for name in MEMBERS}
    given = {name: value for name, value in values.items() if value or name in REQUIRED}
    try:
        registration = registrations.validate_python(given)
    except ValidationError as error:
        return page(rendering.register(values, by_field(error), None), 422)
    position = await services(request).write(registration["id"], registration)
    raise web.HTTPSeeOther(after_url(registration["id"], position))


async def show_user(request: web.Request, user_id: str) -> web.Response:
    """Show a user; after a write (``?after=``) also its outcome."""
    lookups = services(request).lookups
    position = preferences.after(request)
    told = None if position is None else await lookups.settled(position, PAGE_WAIT_SECONDS)
    user = await lookups.find(user_id)
    if user is None and position is None and is_email(user_id):
        user = await lookups.find_by_email(user_id)
    if position is not None and told is not None and not told.outcome.is_terminal:
        return _waiting(request, user_id, position)
    rejection = None if told is None else REJECTIONS.get(told.outcome)
    banner = None if rejection is None else rejection.on_page
    if user is None and told is not None and told.outcome is Outcome.ERASED:
        return page(rendering.erased(user_id))
    if user is None:
        return page(rendering.not_found(user_id, banner), 404 if banner is None else 409)
    return await _shown(request, user, banner)


async def _shown(request: web.Request, user: User, banner: str | None = None) -> web.Response:
    last = await _last_write(request, user)
    shown = rendering.user(
        card(user),
        banner or _age(user),
        base_url(request),
        last,
        may_edit=may(request, Scope.WRITE),
        may_erase=may(request, Scope.ERASE),
    )
    return page(shown)


def _age(user: User) -> str | None:
    """Return how old a copy may be; None if the owner has answered."""
    if user.stale_seconds is None:
        return None
    seconds = math.ceil(user.stale_seconds)
    return f"A copy, up to {seconds} s old: the worker that owns this user does not answer now."


async def _last_write(request: web.Request, user: User) -> LastWrite | None:
    """Return what is known of the user's last write; None if nobody can tell now."""
    try:
        told = await services(request).lookups.outcome(Position.parse(user.position))
    except NotReadyError:
        return None
    return LastWrite(user.position, None if told is None else told.outcome.word)


def show_list(request: web.Request, wanted: Wanted, found: UsersPage) -> web.Response:
    """Show a page of the list of users."""
    query = {"prefix": wanted.prefix} if wanted.prefix else {}
    following = urlencode(query | {"cursor": found.cursor()}) if found.has_more else None
    html = rendering.users(
        [card(user) for user in found.users],
        wanted.prefix,
        following and f"/users?{following}",
        is_first=wanted.after_id is None,
        base_url=base_url(request),
    )
    return page(html)


def _waiting(request: web.Request, user_id: str, position: Position) -> web.Response:
    """Show that a write is not settled yet. The page reloads a few times."""
    tried = request.query.get("tries", "0")
    tries = int(tried) if _TRIES.fullmatch(tried) else MAX_TRIES
    again = f"{after_url(user_id, position)}&tries={tries + 1}"
    refreshes = tries < MAX_TRIES
    return page(rendering.accepted(user_id, position.token(), again, refreshes), 202)


async def show_found(request: web.Request, user: User | None) -> web.Response:
    """Show a user who was found by something that must not appear on the page."""
    if user is None:
        return page(rendering.not_found(None, None), 404)
    return await _shown(request, user)


def card(user: User) -> UserCard:
    """Return a user as the pages show it."""
    return UserCard(
        id=user.id,
        name=user.name,
        email=user.email,
        status=user.status,
        registered_at=user.registered_at,
        updated_at=user.updated_at,
        version=user.version,
        position=user.position,
        url=user_url(user.id),
        more=_more(user),
    )


def _more(user: User) -> Mapping[str, str]:
    """Return the other members of a user, by the label in the form."""
    labels = {field.name: field.label for field in FIELDS}
    further = {name: getattr(user, name) for name in MEMBERS if name not in UserCard.__slots__}
    return {labels[name]: value for name, value in further.items() if value is not None}


def after_url(user_id: str, position: Position) -> str:
    """Return the address of a user's page after a write."""
    url = user_url(user_id)
    return f"{url}{'&' if '?' in url else '?'}after={position.token()}"


def by_field(error: ValidationError) -> Mapping[str, str]:
    """Return what is wrong with a form, by its fields."""
    return {found.pointer.removeprefix("/"): found.detail for found in field_errors(error)}
