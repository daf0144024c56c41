"""OpenTelemetry (an extra): where spans go.

``OTEL_EXPORTER_OTLP_ENDPOINT`` turns it on. OpenTelemetry's other variables work, too.
"""

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

from app.config.settings import Settings
from app.domain.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def provider_for(settings: Settings) -> "TracerProvider | None":
    """Return the receiver of spans, if they are wanted; raise `SettingsError` without the extra."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import DEFAULT_OFF
    except ImportError:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT: spans need the extra otel: pip install '.[otel]'"
        ) from None
    # Who does not say otherwise wants spans of requests that are part of a trace already.
    sampler = None if "OTEL_TRACES_SAMPLER" in os.environ else DEFAULT_OFF
    about = {"service.version": version("user-registry")}
    if "OTEL_SERVICE_NAME" not in os.environ:
        about["service.name"] = "user-registry"
    endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
    try:
        provider = TracerProvider(sampler=sampler, resource=Resource.create(about))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    except ValueError as error:
        raise SettingsError(f"OTEL_*: a variable of OpenTelemetry's is wrong: {error}") from None
    return provider
