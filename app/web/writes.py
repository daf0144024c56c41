"""Writes over REST: a registration is acknowledged once Kafka has it."""

import orjson
from aiohttp import web
from pydantic import ValidationError

from app.records import Registration, field_errors, read_registration
from app.web.negotiation import json
from app.web.problems import ProblemError
from app.web.services import services
from app.web.urls import user_url

routes = web.RouteTableDef()


@routes.post("/users")
async def post_user(request: web.Request) -> web.Response:
    """Accept a registration: 202 with its position, after the broker's acknowledgement."""
    require_json(request)
    registration = parse(await request.read())
    position = await services(request).register(registration)
    accepted = {"status": "accepted", "id": registration["id"], "position": position.token()}
    return json(orjson.dumps(accepted), 202, {"Location": user_url(registration["id"])})


def require_json(request: web.Request) -> None:
    """Refuse a body that does not say it is JSON; a form of another site cannot say so."""
    if request.content_type != "application/json":
        raise ProblemError(415, "unsupported-media-type", "Content-Type must be application/json.")


def parse(body: bytes) -> Registration:
    """Return the registration in a body, or raise the `Problem` that tells what is wrong."""
    try:
        return read_registration(body)
    except ValidationError as error:
        found = field_errors(error)
    if found[0].type == "json_invalid":
        raise ProblemError(400, "malformed", found[0].detail)
    raise ProblemError(422, "invalid", "The registration is not valid.", errors=found)
