"""Pages that change and erase a user: in the state that the page shows, and in no other one."""

import re
from collections.abc import Mapping

import orjson
from aiohttp import web
from pydantic import ValidationError

from app.domain.positions import PATTERN
from app.domain.records import (
    CHANGEABLE,
    REQUIRED,
    CommandValue,
    Condition,
    Erasure,
    User,
    read_update,
)
from app.web.auth.access import require_same_site
from app.web.auth.auditing import note, note_id
from app.web.http.bodies import form_of
from app.web.http.conditions import VERSION
from app.web.http.negotiation import page
from app.web.http.problems import ProblemError
from app.web.outcomes import unknown_user
from app.web.pages import rendering
from app.web.pages.pages import after_url, by_field, card
from app.web.services import services

routes = web.RouteTableDef()

_STATE = re.compile(f"({VERSION}) ({PATTERN})")


@routes.get("/edit")
async def show_edit(request: web.Request) -> web.Response:
    """Show the form with the user's present values."""
    user = await _user(request, request.query.get("id", ""))
    return page(rendering.edit(card(user), _values(user), {}))


@routes.post("/edit")
async def submit_edit(request: web.Request) -> web.Response:
    """Change the user: redirect to its page, or show the form again with its mistakes."""
    form = await _form(request)
    values = {name: form.get(name, "") for name in CHANGEABLE}
    given = {name: value for name, value in values.items() if value or name in REQUIRED}
    update = {"type": "update", "id": form["id"], **given, **_state(form)}
    try:
        command = read_update(orjson.dumps(update))
    except ValidationError as error:
        user = await _user(request, form["id"])
        return page(rendering.edit(card(user), values, by_field(error)), 422)
    return await _write(request, form["id"], command)


@routes.get("/erase")
async def show_erase(request: web.Request) -> web.Response:
    """Ask whether the user is to be erased."""
    return page(rendering.erase(card(await _user(request, request.query.get("id", "")))))


@routes.post("/erase")
async def submit_erase(request: web.Request) -> web.Response:
    """Erase the user, and say so."""
    form = await _form(request)
    note_id(request, form["id"])
    return await _write(request, form["id"], Erasure(type="erase", id=form["id"], **_state(form)))


async def _form(request: web.Request) -> Mapping[str, str]:
    require_same_site(request)
    form = await form_of(request)
    if "id" not in form:
        raise ProblemError(400, "malformed", "The form does not say which user.")
    return form


def _state(form: Mapping[str, str]) -> Condition:
    """Return the state that the page has shown."""
    shown = _STATE.fullmatch(f"{form.get('version')} {form.get('position')}")
    if shown is None:
        raise ProblemError(400, "malformed", "The form does not say which version of the user.")
    return {"ifVersion": int(shown[1]), "ifPosition": shown[2]}


async def _write(request: web.Request, user_id: str, command: CommandValue) -> web.Response:
    position = await services(request).write(user_id, command)
    note(request, position=position.token())
    raise web.HTTPSeeOther(after_url(user_id, position))


async def _user(request: web.Request, user_id: str) -> User:
    user = await services(request).lookups.find(user_id)
    if user is None:
        raise unknown_user()
    return user


def _values(user: User) -> Mapping[str, str]:
    """Return what the form begins with."""
    values = {name: getattr(user, name) for name in CHANGEABLE}
    return {name: value for name, value in values.items() if value is not None}
