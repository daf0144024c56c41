"""Looks many users up at once, by their ids or by their addresses."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, NotRequired, cast

import orjson
from aiohttp import web
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from app.domain.records import Email, User, UserId
from app.web.api.writes import parse, require_json
from app.web.http.bodies import body_of
from app.web.http.negotiation import json
from app.web.http.problems import ProblemError
from app.web.http.room import SHOWN, USER_BYTES, hold
from app.web.services import services

routes = web.RouteTableDef()

#: The most users that one request looks up, and how many of them at the same time.
MAX_LOOKED_UP = 1_000
AT_ONCE = 50


@with_config(
    ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"minProperties": 1, "maxProperties": 1}
    )
)
class Wanted(TypedDict):
    """Who is looked up: users by their ids, or by their addresses."""

    ids: NotRequired[Annotated[list[UserId], Field(max_length=MAX_LOOKED_UP)]]
    emails: NotRequired[Annotated[list[Email], Field(max_length=MAX_LOOKED_UP)]]


class FoundUsers(TypedDict):
    """Users in the order in which they were asked for; null where there is none."""

    users: list[User | None]


_read = cast("Callable[[bytes], Wanted]", TypeAdapter(Wanted).validator.validate_json)


@routes.post("/users/lookup")
async def post_lookup(request: web.Request) -> web.Response:
    """Look up to 1,000 users up, by their ids or by their addresses."""
    require_json(request)
    wanted = parse(await body_of(request), _read)
    if len(wanted) != 1:
        raise ProblemError(422, "invalid", "Give ids or emails.")
    given = services(request)
    ((by, names),) = cast("Mapping[str, Sequence[str]]", wanted).items()
    given.admit_reads(len(names))
    await hold(request, SHOWN, len(names) * USER_BYTES)
    lookups = given.lookups
    find: Callable[[str], Awaitable[User | None]] = (
        lookups.find if by == "ids" else lookups.find_by_email
    )
    found: list[User | None] = []
    for begin in range(0, len(names), AT_ONCE):
        found += await asyncio.gather(*map(find, names[begin : begin + AT_ONCE]))
    users = [None if user is None else orjson.Fragment(user.encode()) for user in found]
    return json(orjson.dumps({"users": users}))
