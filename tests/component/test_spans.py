"""Spans: a collector is told of requests that are part of a trace, and of no personal data."""

import sys
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.config.settings import Settings
from app.domain.errors import SettingsError
from app.kafka import topics
from app.telemetry.tracing import provider_for
from app.web.routes import application_options, install
from app.web.services import Services
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
ADA = {"id": "ada", "name": "Ada King", "email": "ada@example.com"}


class Collector:
    """A collector of spans."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        """Take spans as OTLP over HTTP."""
        self.requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response()

    @property
    def spans(self) -> list[Span]:
        """All spans that came."""
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """Serve a collector."""
    made = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/"))
        yield made


def traced(collector: Collector, producer: FakeProducer, lookups: FakeLookups) -> Client:
    """Return a client of a web view that makes spans, which are sent when it is closed."""
    settings = Settings(otel_exporter_otlp_endpoint=collector.url)
    web_app = web.Application(**application_options(settings))
    written = topics.declare(settings).user_registrations
    install(web_app, Services(settings, written, producer, lookups))
    return TestClient(TestServer(web_app))


def attributes(span: Span) -> dict[str, str | int]:
    """Return a span's attributes."""
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


async def test_a_traced_write_is_a_span_with_its_position(
    collector: Collector, producer: FakeProducer, lookups: FakeLookups
) -> None:
    async with traced(collector, producer, lookups) as client:
        told = await (await client.post("/users", json=ADA, headers=SAMPLED)).json()
        await client.get("/users/ada", headers=SAMPLED)
    write, lookup = collector.spans
    assert (write.name, write.trace_id.hex()) == ("POST /users", TRACE)
    assert attributes(write) == {
        "http.request.method": "POST",
        "http.route": "/users",
        "http.response.status_code": 202,
        "registry.position": told["position"],
    }
    assert (lookup.name, attributes(lookup)["http.response.status_code"]) == (
        "GET /users/{id}",
        404,
    )
    (request,) = collector.requests
    assert b"user-registry" in request.SerializeToString()
    for personal in (b"ada", b"Ada", b"example.com"):
        assert personal not in request.SerializeToString()


async def test_other_requests_have_no_span(
    collector: Collector, producer: FakeProducer, lookups: FakeLookups
) -> None:
    async with traced(collector, producer, lookups) as client:
        unsampled = {"traceparent": SAMPLED["traceparent"][:-1] + "0"}
        for headers in ({}, unsampled, {"traceparent": "nonsense"}):
            assert (await client.post("/users", json=ADA, headers=headers)).status == 202
    assert collector.spans == []


async def test_an_error_of_ours_is_one_of_the_span(
    collector: Collector, producer: FakeProducer, lookups: FakeLookups
) -> None:
    lookups.ready = False
    async with traced(collector, producer, lookups) as client:
        assert (await client.get("/export", headers=SAMPLED)).status == 503
    (span,) = collector.spans
    assert span.status.code == span.status.STATUS_CODE_ERROR


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match="need the extra otel"):
        provider_for(Settings(otel_exporter_otlp_endpoint="http://127.0.0.1:4318"))
    assert provider_for(Settings()) is None


def test_a_wrong_variable_of_opentelemetry_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "-1")
    with pytest.raises(SettingsError, match=r"^OTEL_\*: a variable of OpenTelemetry's is wrong"):
        provider_for(Settings(otel_exporter_otlp_endpoint="http://127.0.0.1:4318"))
