"""Settings of one worker: its address, its logs, its memory."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from app.config.source import SettingsGroup
from app.config.values import CAPITALS, SMALL, KafkaName, Port, Url, host
from app.domain.hosts import is_loopback


class WorkerSettings(SettingsGroup):
    """What may differ between the workers of a registry."""

    web_host: Annotated[str, AfterValidator(host)] = Field(
        "127.0.0.1", description="Address to listen on."
    )
    web_port: Port = Field(6066, description="Port to listen on; each worker needs its own.")
    web_url: Url | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+/?$",
        description="Where other workers reach this one; unset: WEB_HOST:WEB_PORT.",
    )
    worker_id: KafkaName | None = Field(
        None, description="The worker's name in its group, beside its address; unset: APP_ID."
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], CAPITALS] = Field(
        "INFO", description="Least severe level that is logged."
    )
    log_format: Annotated[Literal["console", "json"], SMALL] = Field(
        "console", description="Logs for people or for machines."
    )
    ready_lag_seconds: float = Field(
        300, gt=0, le=1e9, description="A worker whose records wait for longer is not ready."
    )
    stop_grace_seconds: float = Field(
        1, ge=0, le=600, description="How long a worker that stops still takes writes."
    )
    cache_mib: int = Field(
        64, ge=8, le=65536, description="RocksDB block cache of the whole worker, in MiB."
    )
    write_buffer_mib: int = Field(
        64, ge=8, le=65536, description="RocksDB write buffers of the whole worker, in MiB."
    )
    otel_exporter_otlp_endpoint: Url | None = Field(
        None,
        pattern="^https?://",
        description="A collector of OpenTelemetry spans, http://host:4318; needs the extra otel.",
    )

    @property
    def is_open(self) -> bool:
        """Whether other machines reach the worker."""
        return not is_loopback(self.web_host)
