"""Pages: the same lookups and writes, for people; they work without scripts."""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from aiohttp import web
from pydantic import ValidationError

from app.positions import Position
from app.records import User, field_errors, registrations
from app.web import rendering
from app.web.negotiation import page
from app.web.problems import ProblemError
from app.web.rendering import UserCard
from app.web.services import services
from app.web.urls import user_url

routes = web.RouteTableDef()

_FIELDS = ("id", "name", "email")

_SUPERSEDED = (
    "This id was registered before your request: what you see is the registration that stands."
)


@routes.get("/")
async def home(request: web.Request) -> web.Response:
    """Show the search box and the newest registrations."""
    newest = await services(request).lookups.newest()
    cards = [card(user) for user in newest.users]
    return page(rendering.home(cards, newest.unavailable, _base_url(request)))


@routes.get("/register")
async def show_form(_: web.Request) -> web.Response:
    """Show the empty form."""
    return page(rendering.register({}, {}, None))


@routes.post("/register")
async def submit_form(request: web.Request) -> web.Response:
    """Take the form: lead to the user's page, or show the form again with what is wrong."""
    _require_same_site(request)
    form = await request.post()
    values = {name: str(form.get(name, "")) for name in _FIELDS}
    try:
        registration = registrations.validate_python(values)
    except ValidationError as error:
        return page(rendering.register(values, _by_field(error), None), 422)
    position = await services(request).register(registration)
    raise web.HTTPSeeOther(_after(registration["id"], position.token()))


def show_user(request: web.Request, user_id: str, user: User | None) -> web.Response:
    """Show a user, or that it is being registered (``?after=`` its position), or that it is not.

    The first registration of an id stands, so a user at another position than ``after`` means
    that this registration did not count.
    """
    after = request.query.get("after")
    if after is not None:
        Position.parse(after)  # raises: nothing is waited for that cannot come
    if user is not None:
        superseded = after is not None and after != user.position
        banner = _SUPERSEDED if superseded else None
        return page(rendering.user(card(user), banner, _base_url(request)))
    if after is not None:
        return page(rendering.accepted(user_id, after, _after(user_id, after)), 202)
    return page(rendering.not_found(user_id), 404)


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
        url=user_url(user.id),
    )


def _base_url(request: web.Request) -> str:
    """Return the address at which this client reaches the worker."""
    return f"{request.scheme}://{request.host}"


def _after(user_id: str, position: str) -> str:
    url = user_url(user_id)
    return f"{url}{'&' if '?' in url else '?'}after={quote(position, safe='')}"


def _by_field(error: ValidationError) -> Mapping[str, str]:
    return {found.pointer.removeprefix("/"): found.detail for found in field_errors(error)}


def _require_same_site(request: web.Request) -> None:
    """Refuse a form that another site's page sent; there are no access keys yet to tell by."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise ProblemError(403, "cross-site", "This form was sent from another site's page.")
