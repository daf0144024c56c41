"""Health: live (the loop turns) and ready (this worker's part of the tables can be asked)."""

import orjson
from aiohttp import web

from app.web.negotiation import json
from app.web.services import services

routes = web.RouteTableDef()


@routes.get("/health/live")
async def live(_: web.Request) -> web.Response:
    """Answer: who can answer is alive."""
    return json(b'{"status":"live"}')


@routes.get("/health/ready")
async def ready(request: web.Request) -> web.Response:
    """Answer 200 once the tables are recovered and the worker has its partitions, else 503."""
    if services(request).lookups.is_ready():
        return json(b'{"status":"ready"}')
    reasons = ["the tables are recovering, or partitions are moving between workers"]
    return json(orjson.dumps({"status": "not ready", "reasons": reasons}), 503)
