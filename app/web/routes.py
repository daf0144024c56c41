"""The routes of the web view, installed into an aiohttp application."""

from typing import Any

from aiohttp import web

from app.config.settings import Settings
from app.web import trpc
from app.web.api import (
    batches,
    dead_letters,
    events,
    export,
    health,
    lookups,
    many,
    metrics,
    openapi,
    writes,
)
from app.web.auth import access, auditing, login
from app.web.http import cors, hosts, preferences, proxies, rates, received, room, spans, tracing
from app.web.http.problems import TOLD_OTHERWISE, answer_errors
from app.web.pages import changes, pages, samples, static_files
from app.web.services import SERVICES, Services

#: A connection on which no request comes, or not a whole one, is closed after so long.
KEEP_ALIVE_SECONDS = 75.0
#: The longest first line of a request: a tRPC batch names each of its calls there.
MAX_LINE_BYTES = 16 * 1024

_KIB = 1024


def application_options(settings: Settings) -> dict[str, Any]:
    """Return how the application is made: its limits, and one place that answers errors."""
    return {
        "client_max_size": settings.max_body_kib * _KIB,
        "middlewares": [
            metrics.count_responses,
            tracing.echo_request_id,
            answer_errors,
            received.refuse_malformed,
        ],
    }


def runner_options() -> dict[str, Any]:
    """Return how connections are served: none is kept that says nothing, or says it too slowly."""
    return {
        "access_log": None,
        "keepalive_timeout": KEEP_ALIVE_SECONDS,
        "max_line_size": MAX_LINE_BYTES,
        # A few bytes could become many.
        "auto_decompress": False,
    }


def install(web_app: web.Application, given: Services) -> None:
    """Add our routes to an application, with what their handlers work with."""
    web_app[SERVICES] = given
    spans.install(web_app, given.settings)
    proxies.install(web_app, given.settings.trusted_proxies, given.settings.internal_port)
    web_app[TOLD_OTHERWISE] = {"/trpc/": trpc.failure}
    for module in (
        health,
        metrics,
        pages,
        changes,
        samples,
        writes,
        batches,
        many,
        lookups,
        dead_letters,
        openapi,
        trpc,
    ):
        web_app.add_routes(module.routes)
    web_app.add_routes(events.routes)
    web_app.add_routes(export.routes)
    web_app.add_routes(static_files.routes)
    events.install(web_app, given)
    trpc.install(web_app)
    openapi.install(web_app)
    cors.install(web_app, given.settings)
    audit = auditing.install(web_app, given.settings)
    hosts.install(web_app, given.settings)
    if access.install(web_app, given.settings, audit):
        web_app.add_routes(login.routes)
    web_app.middlewares.append(access.keep_internal)
    rates.install(web_app)
    room.install(web_app)
    web_app.middlewares.append(preferences.bound_waits)
