"""``/metrics``, in the text format of Prometheus."""

from urllib.parse import urlsplit

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.telemetry.metrics import KEY_UNUSED_SECONDS, REGISTRY, RESPONSES
from app.web.auth.access import seconds_of_keys_unused
from app.web.http.negotiation import json
from app.web.http.problems import Handler, tell_status
from app.web.services import services

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


@routes.get("/metrics/targets")
async def get_targets(request: web.Request) -> web.Response:
    """Tell where the metrics of each worker are, as Prometheus asks for it (http_sd_configs)."""
    by_scheme: dict[str, list[str]] = {}
    for url in map(urlsplit, services(request).overview.workers()):
        by_scheme.setdefault(url.scheme, []).append(url.netloc)
    groups = [
        {"targets": targets, "labels": {"__scheme__": scheme}}
        for scheme, targets in by_scheme.items()
    ]
    return json(orjson.dumps(groups))


@web.middleware
async def count_responses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the answer to a request that did not take the fast lane."""
    return await tell_status(request, handler, lambda status: RESPONSES.labels(str(status)).inc())
