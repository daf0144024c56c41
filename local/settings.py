"""The settings of `make run`: the workers' own, and how many run on which broker."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from app.config.mistakes import describe, refuse_removed
from app.config.settings import Settings
from app.config.source import Place
from app.config.values import Port
from app.domain import errors
from app.domain.hosts import HIGHEST_PORT
from app.system.environment import handed_down
from local.errors import SettingsError

#: Addresses that stand for all of a machine's; from the machine itself, loopback reaches them.
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked for, not bound to


MOST_WORKERS = 64


def _count(given: object) -> object:
    """Return how many workers there are to be: with ``auto`` one for each core."""
    if not (isinstance(given, str) and given.lower() == "auto"):
        return given
    # Where a process may be kept from some cores, those are not counted.
    allowed = getattr(os, "sched_getaffinity", None)
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, MOST_WORKERS)


class LocalSettings(Settings):
    """The workers' settings, and those of their supervisor.

    All workers share ``web_port``; the ports after it are the workers' own.
    """

    workers: Annotated[int, BeforeValidator(_count)] = Field(
        1,
        ge=1,
        le=MOST_WORKERS,
        description="Workers to run, each a process; auto: one for each core.",
    )
    brokers: int = Field(
        1, ge=1, le=9, description="Brokers that `make run` brings; three keep three replicas."
    )
    broker_port: Port = Field(
        9092, description="Port of the broker that `make run` brings; others take those after it."
    )

    @model_validator(mode="after")
    def _names_one_worker(self) -> Self:
        if self.workers > 1 and (self.worker_id or self.web_url):
            raise ValueError(f"WORKER_ID, WEB_URL: unset them, as {self.workers} workers differ")
        if self.internal_port is not None:
            raise ValueError("INTERNAL_PORT: unset it, as each worker gets one after WEB_PORT")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.internal_ports[-1] > HIGHEST_PORT:
            most = HIGHEST_PORT - self.workers
            raise ValueError(f"WEB_PORT: must be at most {most} for {self.workers} workers")
        if not self.brings_broker:
            return self
        if self.broker_ports[-1] > HIGHEST_PORT:
            raise ValueError(f"BROKER_PORT: {self.brokers} brokers need ports up to {HIGHEST_PORT}")
        if taken := set(self.broker_ports).intersection([self.web_port, *self.internal_ports]):
            raise ValueError(f"BROKER_PORT: {min(taken)} is a port of the workers")
        return self

    @property
    def brings_broker(self) -> bool:
        """Whether a broker is to be run here, because KAFKA_BROKERS names none."""
        return "kafka_brokers" not in self.model_fields_set

    @property
    def broker_ports(self) -> range:
        """The ports of the brokers that are run here."""
        return range(self.broker_port, self.broker_port + self.brokers)

    @property
    def internal_ports(self) -> range:
        """The ports of the workers' own, after the one that they share."""
        return range(self.web_port + 1, self.web_port + 1 + self.workers)

    @property
    def public_url(self) -> str:
        """Return where all workers are reached from this machine."""
        return self.url_of(self.web_host, self.web_port)

    def url_of(self, host: str, port: int) -> str:
        """Return how a host and port are reached from this machine, without a slash at the end."""
        host = ANY_ADDRESS.get(host, host)
        scheme = "http" if self.tls_cert_file is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def load() -> LocalSettings:
    """Return the settings, or raise `SettingsError` with a line for each mistake."""
    with _told():
        refuse_removed()
        return LocalSettings()


def environment(brokers: str) -> dict[str, str]:
    """Return what commands of the registry see that are started here: settings, and the system's.

    ``brokers`` is the Kafka that they use.
    """
    return handed_down(map(str.upper, LocalSettings.model_fields)) | {"KAFKA_BROKERS": brokers}


def data_dir() -> Path:
    """Return where everything is, whatever the other settings are; raise `SettingsError`."""
    with _told():
        return Place().data_dir


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise SettingsError(describe(error)) from None
    except errors.SettingsError as error:
        raise SettingsError(str(error)) from None
