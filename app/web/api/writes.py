"""Writes over REST: answered when Kafka has stored them, or on request when they are settled."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import ValidationError

from app.access.scopes import Scope
from app.domain.outcomes import Outcome
from app.domain.positions import Position
from app.domain.records import (
    CHANGEABLE,
    CONDITIONS,
    MEMBERS,
    NOTHING_CHANGES,
    CommandValue,
    Erasure,
    Update,
    field_errors,
    is_erasure,
    is_user_id,
    read_registration,
    read_update,
)
from app.query.lookups import WriteResult
from app.web.auth.access import may
from app.web.auth.auditing import note, note_id
from app.web.http.bodies import body_of
from app.web.http.conditions import if_match, tagged
from app.web.http.negotiation import json
from app.web.http.preferences import wait_seconds
from app.web.http.problems import ProblemError
from app.web.http.tracing import note_acknowledged
from app.web.http.urls import registration_url, rest_of, rest_of_path, user_url
from app.web.outcomes import rejected
from app.web.services import services

routes = web.RouteTableDef()

T = TypeVar("T")

#: Content types of PATCH: JSON, or merge patch (RFC 7396).
_PATCHES = ("application/json", "application/merge-patch+json")


@routes.post("/users")
async def post_user(request: web.Request) -> web.Response:
    """Accept a registration: 202 with its position, after the broker's acknowledgement."""
    require_json(request)
    registration = parse(await body_of(request), read_registration)
    return await _write(request, registration["id"], registration)


@routes.patch(rest_of("/users", "id"))
async def patch_user(request: web.Request) -> web.Response:
    """Accept an update of the user whose id is in the path."""
    return await _update(request, rest_of_path(request, "/users/"))


@routes.patch("/users")
async def patch_user_in_query(request: web.Request) -> web.Response:
    """Accept an update of the user whose id is in the query."""
    return await _update(request, _id_in_query(request))


@routes.delete(rest_of("/users", "id"))
async def delete_user(request: web.Request) -> web.Response:
    """Accept the erasure of the user whose id is in the path."""
    return await _erase(request, rest_of_path(request, "/users/"))


@routes.delete("/users")
async def delete_user_in_query(request: web.Request) -> web.Response:
    """Accept the erasure of the user whose id is in the query."""
    return await _erase(request, _id_in_query(request))


async def _update(request: web.Request, user_id: str) -> web.Response:
    require_json(request, *_PATCHES)
    body = _members(await body_of(request))
    if body.get("id", user_id) != user_id:
        raise ProblemError(422, "invalid", "The id cannot be changed.")
    given = {name: body[name] for name in CHANGEABLE if name in body}
    if not given:
        raise ProblemError(422, "invalid", "Nothing would change.", errors=NOTHING_CHANGES)
    in_body = {name: body[name] for name in CONDITIONS if name in body}
    read = orjson.dumps({"type": "update", "id": user_id, **given, **in_body})
    update = parse(read, read_update)
    # A precondition counts last: RFC 9110, section 13.2.1.
    in_header = if_match(request)
    if in_header and in_body:
        raise ProblemError(400, "malformed", "Name the version in If-Match or in the body.")
    return await _write(request, user_id, Update(**{**update, **in_header}))


async def _erase(request: web.Request, user_id: str) -> web.Response:
    if not is_user_id(user_id):
        raise ProblemError(422, "invalid", "No user has such an id.")
    erasure = Erasure(type="erase", id=user_id, **if_match(request))
    return await _write(request, user_id, erasure)


def _id_in_query(request: web.Request) -> str:
    user_id = request.query.get("id")
    if not user_id:
        raise ProblemError(400, "malformed", "Say which user: /users?id=…")
    return user_id


async def _write(request: web.Request, user_id: str, command: CommandValue) -> web.Response:
    given = services(request)
    seconds = wait_seconds(request)
    if is_erasure(command):
        note_id(request, user_id)
    position = await given.write(user_id, command)
    note(request, position=position.token())
    note_acknowledged(request, position.token())
    told = await given.wait(position, seconds)
    applied = {"Preference-Applied": f"wait={seconds:.0f}"} if seconds else {}
    if told.outcome in (Outcome.REGISTERED, Outcome.REPLAYED, Outcome.UPDATED):
        return await _settled(request, user_id, command, told, applied)
    if told.outcome is Outcome.ERASED:
        return _answer(200, "erased", user_id, position, applied)
    if told.outcome.reason is not None:
        raise rejected(told.outcome)
    location = {"Location": registration_url(position)}
    return _answer(202, "accepted", user_id, position, {**location, **applied})


async def _settled(
    request: web.Request,
    user_id: str,
    command: CommandValue,
    told: WriteResult,
    headers: dict[str, str],
) -> web.Response:
    created = told.outcome is Outcome.REGISTERED
    location = {"Location": user_url(user_id)} if created else {}
    if not may(request, Scope.LOOKUP):
        # The row may belong to another caller. Without the scope lookup, return only what was sent.
        sent = {name: value for name, value in command.items() if name in MEMBERS}
        status = 201 if created else 200
        return _answer(
            status, told.outcome.word, user_id, told.position, {**location, **headers}, sent
        )
    user = await services(request).lookups.find(user_id)
    if user is None:
        # The user was erased meanwhile.
        return _answer(200, told.outcome.word, user_id, told.position, headers)
    return json(user.encode(), 201 if created else 200, {**tagged(user), **location, **headers})


def _answer(
    status: int,
    word: str,
    user_id: str,
    position: Position,
    headers: dict[str, str],
    more: Mapping[str, object] = MappingProxyType({}),
) -> web.Response:
    body = orjson.dumps({**more, "status": word, "id": user_id, "position": position.token()})
    return json(body, status, headers)


def require_json(request: web.Request, *types: str) -> None:
    """Refuse a body that is not declared as JSON. A form of another site cannot declare that."""
    wanted = types or ("application/json",)
    if request.content_type not in wanted:
        raise ProblemError(
            415, "unsupported-media-type", f"Content-Type must be {' or '.join(wanted)}."
        )


def parse(body: bytes, read: Callable[[bytes], T]) -> T:
    """Return the value in a body; raise `ProblemError` with what is wrong."""
    try:
        return read(body)
    except ValidationError as error:
        found = field_errors(error)
    if found[0].type == "json_invalid":
        raise ProblemError(400, "malformed", found[0].detail)
    raise ProblemError(422, "invalid", "What was sent is not valid.", errors=found)


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProblemError(400, "malformed", str(error)) from None
    if not isinstance(members, dict):
        raise ProblemError(422, "invalid", "The body must be a JSON object.")
    return members
