"""Settings of one registry: its topics, its secrets, its copies. All its workers have the same."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, StringConstraints, model_validator

from app.config.secret_files import read_secrets, revealed
from app.config.source import SettingsGroup
from app.config.values import SMALL, File, KafkaName
from app.domain.addresses import EmailKeys
from app.domain.errors import SettingsError
from app.domain.hosts import HIGHEST_PORT

#: A shorter secret can be guessed.
MIN_SECRET = 16

#: How often files are tidied within ERASE_WITHIN_HOURS.
TIDY_TIMES = 6

#: A user who can read a broker on this machine can read the topics, too: nothing is to be hidden.
_LOCAL_SECRET = SecretStr("a broker on this machine")


class RegistrySettings(SettingsGroup):
    """What all workers of a registry must agree on."""

    app_id: KafkaName = Field(
        "user-registry", description="Consumer group, and prefix of the changelogs' names."
    )
    topic_prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = Field(
        "", description="Prefix of all topics, so that registries can share a cluster."
    )
    partitions: int = Field(
        8,
        ge=1,
        le=1000,
        description="Partitions of every topic of a new registry. More later: docs/cluster.md.",
    )
    replication_factor: int | None = Field(
        None, ge=1, le=32767, description="Copies of every topic; unset: the broker's default."
    )
    min_insync_replicas: int | None = Field(
        None,
        ge=1,
        le=32767,
        description="Copies that must have a write before it is acknowledged; unset: the broker's "
        "default.",
    )
    retention_hours: int = Field(
        168,
        ge=1,
        le=876_000,
        description="How long registrations, their outcomes and dead letters are kept.",
    )
    erase_within_hours: int = Field(
        24, ge=2, le=8760, description="How soon erased users leave all files but registrations."
    )
    email_secret: SecretStr | None = Field(
        None,
        min_length=MIN_SECRET,
        description="Hides email addresses in topics. It must never change. "
        "Needed unless the broker is on this machine.",
    )
    email_secret_file: File | None = Field(
        None, description="Holds the secret, instead of EMAIL_SECRET."
    )
    signing_secret: SecretStr | None = Field(
        None,
        description="Signs sessions and workers' requests; several, separated by commas: the first "
        "signs, all are accepted. Unset: what is derived from EMAIL_SECRET.",
    )
    signing_secret_file: File | None = Field(
        None, description="Holds the secrets, a line each, instead of SIGNING_SECRET."
    )
    standby_replicas: int = Field(
        1, ge=0, le=10, description="How many other workers keep a copy of each table."
    )
    session_timeout_seconds: float = Field(
        10, ge=6, le=300, description="A worker that is silent for longer loses its partitions."
    )
    compression: Annotated[Literal["none", "lz4", "zstd"], SMALL] = Field(
        "none", description="Compression of the registry's own topics."
    )

    _generation: int = PrivateAttr(0)

    @model_validator(mode="before")
    @classmethod
    def _secrets_of_files(cls, given: dict[str, object]) -> dict[str, object]:
        found = read_secrets(given, ("email_secret", "signing_secret"))
        if "signing_secret" in found:
            found["signing_secret"] = ",".join(found["signing_secret"].split())
        return {**given, **found}

    @model_validator(mode="after")
    def _secrets_are_long(self) -> Self:
        if any(len(secret) < MIN_SECRET for secret in _secrets_in(self.signing_secret)):
            raise ValueError(f"SIGNING_SECRET: each must have at least {MIN_SECRET} characters")
        return self

    @model_validator(mode="after")
    def _copies_suffice(self) -> Self:
        if (self.min_insync_replicas or 0) > (self.replication_factor or HIGHEST_PORT):
            raise ValueError(
                f"MIN_INSYNC_REPLICAS: must be at most REPLICATION_FACTOR, "
                f"{self.replication_factor}, or no write is ever acknowledged "
                f"(got {self.min_insync_replicas})"
            )
        return self

    @property
    def generation(self) -> int:
        """How often the registry was repartitioned before these settings were read."""
        return self._generation

    @property
    def tidy_seconds(self) -> float:
        """The seconds between two tidy-ups: several within ERASE_WITHIN_HOURS."""
        return self.erase_within_hours * 3600 / TIDY_TIMES

    def partitioned(self, partitions: int, generation: int) -> Self:
        """Return the settings with the registry's partitions and generation."""
        there = self.model_copy(update={"partitions": partitions})
        there._generation = generation
        return there

    @property
    def email_keys(self) -> EmailKeys:
        """Makes the keys of email addresses with the secret."""
        secret = _LOCAL_SECRET if self.email_secret is None else self.email_secret
        return EmailKeys(secret.get_secret_value().encode())

    @property
    def signing_secrets(self) -> Sequence[bytes]:
        """The secrets that sign sessions and workers' requests; raise `SettingsError`."""
        secrets = _secrets_in(self.signing_secret) or _secrets_in(self.email_secret, whole=True)
        if not secrets:
            raise SettingsError(
                "EMAIL_SECRET: must be set if KEYS_FILE is, or SIGNING_SECRET: sessions and "
                "requests between workers are signed with what is made of it"
            )
        return [secret.encode() for secret in secrets]

    @property
    def audit_secret(self) -> bytes:
        """The secret that hashes ids in the audit log."""
        secrets = _secrets_in(self.email_secret, whole=True) or _secrets_in(self.signing_secret)
        return [*secrets, _LOCAL_SECRET.get_secret_value()][0].encode()


def _secrets_in(secret: SecretStr | None, *, whole: bool = False) -> list[str]:
    """Return the secrets in a setting; with ``whole``, the whole text is one secret."""
    text = revealed(secret) or ""
    listed = [text] if whole else re.split(r"[,\s]+", text)
    return [each for each in listed if each]
