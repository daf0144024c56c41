"""``/metrics``: for Prometheus, and whoever reads its text format."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.metrics import REGISTRY, RESPONSES
from app.web.problems import Handler

routes = web.RouteTableDef()


@routes.get("/metrics")
async def get_metrics(_: web.Request) -> web.Response:
    """Tell all metrics."""
    return web.Response(
        body=generate_latest(REGISTRY),
        headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"},
    )


@web.middleware
async def count_responses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the answer to a request that did not take the fast lane."""
    status = 500
    try:
        answer = await handler(request)
        status = answer.status
        return answer
    except web.HTTPException as error:
        status = error.status
        raise
    finally:
        RESPONSES.labels(str(status)).inc()
