"""Settings of limits: rates, connections, bodies, time."""

from pydantic import Field

from app.config.source import SettingsGroup
from app.config.values import Rate


class LimitSettings(SettingsGroup):
    """How much a worker takes, and how long anything may take."""

    max_writes_per_second: Rate | None = Field(
        None,
        description="Most writes a second of this worker; others get 503.",
    )
    client_writes_per_second: Rate | None = Field(
        None,
        description="Most writes a second of one client, by key or address; others get 429.",
    )
    max_reads_per_second: Rate | None = Field(
        None, description="Most reads a second of this worker; others get 503."
    )
    client_reads_per_second: Rate | None = Field(
        None, description="Most reads a second of one client, by key or address; others get 429."
    )
    max_connections: int = Field(
        2_000,
        ge=16,
        le=1_000_000,
        description="Most connections; fewer if the process may open fewer files.",
    )
    client_connections: int | None = Field(
        None,
        ge=1,
        description="Most of one address. Unset: half of them, or all behind proxies.",
    )
    slow_client_seconds: float = Field(
        30,
        ge=1,
        le=3600,
        description="A client that sends or reads for longer is disconnected.",
    )
    max_waiting_records: int = Field(
        100_000,
        ge=100,
        le=100_000_000,
        description="Most records that wait for the broker; beyond it writes are refused (503).",
    )
    max_waiting_mib: int = Field(
        64, ge=1, le=65536, description="The same in MiB of keys and values."
    )
    max_body_kib: int = Field(1024, ge=1, le=102_400, description="Largest request body, in KiB.")
    max_batch_calls: int = Field(
        1000, ge=1, le=100_000, description="Most calls in one tRPC batch."
    )
    ack_timeout_seconds: float = Field(
        1.8,
        gt=0,
        le=120,
        description="How long a write waits for the broker's acknowledgement; it is answered "
        "within twice as long.",
    )
    max_wait_seconds: float = Field(
        10, gt=0, le=60, description="How long a request may wait for a write to be settled."
    )
