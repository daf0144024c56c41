"""Health: live (the event loop runs) and ready (requests may come), with reasons."""

import orjson
from aiohttp import web

from app.web.auth.access import why_no_key_is_known
from app.web.http.negotiation import json
from app.web.services import services

routes = web.RouteTableDef()


@routes.get("/health/live")
async def live(_: web.Request) -> web.Response:
    """Answer: who can answer is alive."""
    return json(b'{"status":"live"}')


@routes.get("/health/ready")
async def ready(request: web.Request) -> web.Response:
    """Answer 200 if the worker may be sent requests, else 503 with the reasons."""
    reasons = [*services(request).why_not_ready(), *why_no_key_is_known(request)]
    if not reasons:
        return json(b'{"status":"ready"}')
    return json(orjson.dumps({"status": "not ready", "reasons": reasons}), 503)
