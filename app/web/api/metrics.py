"""``/metrics``, in the text format of Prometheus."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.telemetry.metrics import KEY_UNUSED_SECONDS, REGISTRY, RESPONSES
from app.web.auth.access import seconds_of_keys_unused
from app.web.http.problems import Handler, tell_status

routes = web.RouteTableDef()


@routes.get("/metrics")
async def get_metrics(request: web.Request) -> web.Response:
    """Tell all metrics."""
    KEY_UNUSED_SECONDS.clear()
    for name, seconds in seconds_of_keys_unused(request).items():
        KEY_UNUSED_SECONDS.labels(name).set(seconds)
    return web.Response(
        body=generate_latest(REGISTRY),
        headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"},
    )


@web.middleware
async def count_responses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the answer to a request that did not take the fast lane."""
    return await tell_status(request, handler, lambda status: RESPONSES.labels(str(status)).inc())
