"""Spans of requests for OpenTelemetry.

A span names the route, not the path: ids are personal. Plain requests take the fast lane and have
no span; a ``traceparent`` header makes a request one that has.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiohttp import web

from app.config.settings import Settings
from app.telemetry.tracing import provider_for
from app.web.auth.access import route_of
from app.web.http.problems import Handler

if TYPE_CHECKING:
    from opentelemetry.trace import Span

#: Where a request's span is, if it has one.
SPAN: "web.RequestKey[Span]" = web.RequestKey("span", object)  # type: ignore[arg-type]


def install(web_app: web.Application, settings: Settings) -> None:
    """Make spans of an application's requests, if they are wanted."""
    provider = provider_for(settings)
    if provider is None:
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = provider.get_tracer("user-registry")
    propagator = TraceContextTextMapPropagator()

    @web.middleware
    async def make_span(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = route_of(request)
        with tracer.start_as_current_span(
            f"{request.method} {route}".rstrip(),
            propagator.extract(request.headers),
            trace.SpanKind.SERVER,
            {"http.request.method": request.method, "http.route": route},
        ) as span:
            request[SPAN] = span
            answer = await handler(request)
            span.set_attribute("http.response.status_code", answer.status)
            if answer.status >= 500:
                span.set_status(trace.StatusCode.ERROR)
            return answer

    async def flush(_: web.Application) -> None:
        await asyncio.to_thread(provider.shutdown)

    web_app.middlewares.insert(0, make_span)
    web_app.on_cleanup.append(flush)


def note_positions(request: web.Request, positions: Sequence[str]) -> None:
    """Let the request's span, if it has one, have the position of its write, or of the last."""
    span = request.get(SPAN)
    if span is not None and positions:
        span.set_attribute("registry.position", positions[-1])
