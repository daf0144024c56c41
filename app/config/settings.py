"""All settings: one field per knob, and the environment variable is its name in capitals."""

import sys
from functools import cache
from typing import Self

from pydantic import ValidationError, model_validator

from app.config.access import AccessSettings
from app.config.kafka import KafkaSettings
from app.config.limits import LimitSettings
from app.config.mistakes import describe, refuse_removed
from app.config.producer import ProducerSettings
from app.config.registry import RegistrySettings
from app.config.source import Place
from app.config.values import host
from app.config.worker import WorkerSettings
from app.domain.errors import SettingsError
from app.domain.hosts import bracketed, is_loopback

#: Exit status of a command whose settings or arguments are wrong.
EXIT_USAGE = 2

#: The setting that lets strangers in, and what they may do then.
_OPEN_TO_WRITE = ("WEB_HOST", "write")


class Settings(
    Place,
    WorkerSettings,
    RegistrySettings,
    KafkaSettings,
    AccessSettings,
    LimitSettings,
    ProducerSettings,
):
    """The settings of a process, in the groups of docs/reference/settings.md.

    Each group checks itself. What several groups must agree on is checked here.
    """

    @model_validator(mode="after")
    def _bound_to_loopback(self) -> Self:
        if self.is_open and not self.allow_open_bind and self.keys_file is None:
            name, may = ("INTERNAL_HOST", "read") if is_loopback(self.web_host) else _OPEN_TO_WRITE
            raise ValueError(
                f"{name}: beyond loopback anyone may {may}; set KEYS_FILE to ask for access keys, "
                "or ALLOW_OPEN_BIND=1 if something in front of the worker keeps strangers out"
            )
        return self

    @model_validator(mode="after")
    def _secret_is_set(self) -> Self:
        named = (host(broker.rpartition(":")[0]) for broker in self.kafka_brokers.split(","))
        if self.email_secret is None and not all(map(is_loopback, named)):
            raise ValueError(
                "EMAIL_SECRET: must be set for a broker beyond this machine: 16 or more random "
                "characters, the same for all workers and for ever"
            )
        return self

    @property
    def url(self) -> str:
        """Where other workers reach this one, without a slash at the end."""
        scheme = "http" if self.tls_cert_file is None else "https"
        own, port = self.own_address
        here = f"{scheme}://{bracketed(own)}:{port}"
        return (self.web_url or here).rstrip("/")


def load() -> Settings:
    """Return the settings, or raise `SettingsError` with a line for each mistake."""
    refuse_removed()
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(describe(error)) from None


@cache
def settings() -> Settings:
    """Return the settings of this process; wrong ones end it with a line each and status 2."""
    try:
        return load()
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
