"""Settings of one worker: its address, its logs, its memory."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from app.config.source import SettingsGroup
from app.config.values import CAPITALS, SMALL, KafkaName, Port, Url, host
from app.domain.hosts import is_loopback


class WorkerSettings(SettingsGroup):
    """What may differ between the workers of a registry."""

    web_host: Annotated[str, AfterValidator(host)] = Field(
        "127.0.0.1", description="Address to listen on."
    )
    web_port: Port = Field(6066, description="Port to listen on.")
    internal_host: Annotated[str, AfterValidator(host)] = Field(
        "127.0.0.1", description="Address to listen on at INTERNAL_PORT."
    )
    internal_port: Port | None = Field(
        None,
        description="A port of this worker's own for other workers, health and metrics; needed "
        "where workers share WEB_PORT.",
    )
    web_url: Url | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+/?$",
        description="Where other workers reach this one; unset: INTERNAL_HOST:INTERNAL_PORT, or "
        "WEB_HOST:WEB_PORT without INTERNAL_PORT.",
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

    @model_validator(mode="after")
    def _addresses_differ(self) -> Self:
        if self.internal_port == self.web_port:
            raise ValueError(f"INTERNAL_PORT: must differ from WEB_PORT (got {self.web_port})")
        return self

    @property
    def is_open(self) -> bool:
        """Whether other machines reach the worker."""
        own, _ = self.own_address
        return not (is_loopback(self.web_host) and is_loopback(own))

    @property
    def own_address(self) -> tuple[str, int]:
        """The host and port at which this worker answers, and no other one."""
        if self.internal_port is None:
            return self.web_host, self.web_port
        return self.internal_host, self.internal_port
