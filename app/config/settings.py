"""Typed settings from the environment. A wrong one ends the start with one line."""

import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.config.connection import OAUTHBEARER, Connection
from app.config.secret_files import read_secrets
from app.domain.errors import SettingsError
from app.domain.keys import EmailKeys
from app.domain.texts import STRAY, shown

#: Exit status of a command whose settings or arguments are wrong.
EXIT_USAGE = 2

#: Fewer characters may be guessed.
MIN_SECRET = 16

#: How often files are looked after within the time in which erased users must be gone from them.
TIDY_TIMES = 6

HIGHEST_PORT = 65535

_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_BROKER = re.compile(r"(?P<host>\[[^\[\]]+\]|[^:\[\]]+):(?P<port>\d{1,5})")
_LABEL_CHARACTERS = 63


def reachable(path: Path) -> Path:
    """Return a path with the home that ``~`` stands for; it may lead to nothing yet."""
    try:
        path = path.expanduser()
        path.stat()
    except RuntimeError:
        raise ValueError("names the home of nobody who is known here") from None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except OSError as error:
        raise ValueError(f"cannot be used: {error.strerror}") from None
    return path


def _host(text: str) -> str:
    """Return a host's name or address, without the brackets that IPv6 has in URLs."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if _is_address(bare) or (bare == text and _is_host_name(text)):
        return bare
    raise ValueError("must be a host's name or IP address")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_host_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and all(map(_HOST_LABEL.fullmatch, labels))


def _brokers(text: str) -> str:
    """Return ``host:port,…`` without blanks; raise `ValueError` for what no client could use."""
    return ",".join(map(_broker, text.split(",")))


def _broker(text: str) -> str:
    address = _BROKER.fullmatch(text.strip())
    if address is None:
        raise ValueError("must be host:port, several separated by commas")
    _host(address["host"])
    if not 1 <= int(address["port"]) <= HIGHEST_PORT:
        raise ValueError(f"ports are 1 to {HIGHEST_PORT}")
    return address[0]


def _url(text: str) -> str:
    """Return a URL; raise `ValueError` if its host or port is none."""
    parts = urlsplit(text)
    # What a host is called is left to who resolves it; no part of its name is longer than this.
    if not parts.hostname or max(map(len, parts.hostname.split("."))) > _LABEL_CHARACTERS:
        raise ValueError("must name a host")
    if parts.port == 0:
        raise ValueError(f"ports are 1 to {HIGHEST_PORT}")
    return text


Port = Annotated[int, Field(ge=1, le=HIGHEST_PORT)]
File = Annotated[Path, AfterValidator(reachable)]
Url = Annotated[str, AfterValidator(_url)]
#: How many in a second: none would be a standstill, and so would next to none.
Rate = Annotated[float, Field(ge=0.001, le=1e9)]
#: Words that are taken in small letters, too, or in capitals.
_CAPITALS = BeforeValidator(lambda word: str(word).upper())
_SMALL = BeforeValidator(lambda word: str(word).lower())
#: Names that end up in Kafka: Kafka's own alphabet for topics.
KafkaName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]


#: Who reads a broker on this machine reads its user's files anyway: nothing needs to be hidden.
_LOCAL_SECRET = SecretStr("a broker on this machine")

#: pydantic's errors, as settings are spoken of.
_WORDS = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "finite_number": "must be a finite number",
    "string_too_short": "must have at least {min_length} characters",
    "too_short": "must have at least {min_length} characters",
    "bool_parsing": "must be 1 or 0",
    "literal_error": "must be {expected}",
}
#: The files by which Kafka's clients connect.
_KAFKA_FILES = (
    "kafka_password_file",
    "kafka_token_file",
    "kafka_ca_file",
    "kafka_certificate_file",
    "kafka_key_file",
)
#: Of these, those that hold nothing but a secret.
_ONE_LINE_FILES = ("kafka_password_file", "kafka_token_file")
#: What the patterns below want, in words; all others are Kafka's alphabet.
_PATTERNS = {
    "web_url": "must be http://host:port",
    "cors_origins": "must be origins such as https://example.com separated by commas, or *",
}


class _Environment(PydanticBaseSettingsSource):
    """The environment: names in capitals; blanks and line ends around a value are no part of it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return a setting's value; None if it is not set."""
        return os.environ.get(field_name.upper(), "").strip() or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return what is set, by the fields' names."""
        fields = self.settings_cls.model_fields.items()
        given = {name: self.get_field_value(field, name)[0] for name, field in fields}
        return {name: value for name, value in given.items() if value is not None}


class Place(BaseSettings):
    """The one setting that says where everything is: enough to stop what runs there."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    data_dir: File = Field(Path("data"), description="Where this worker keeps its stores.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the environment as we read it."""
        return init_settings, _Environment(settings_cls)

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, given: object) -> object:
        if isinstance(given, str) and STRAY.search(given):
            raise ValueError("must be UTF-8 text without control characters, in one line")
        return given


class Settings(Place):
    """One field per knob; the environment variable is the field's name in capitals."""

    kafka_brokers: Annotated[str, AfterValidator(_brokers)] = Field(
        "127.0.0.1:9092",
        description="Brokers to begin with: host:port, several separated by commas.",
    )
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], _CAPITALS
    ] = Field(
        "PLAINTEXT", description="What the brokers speak: TLS (SSL), a login (SASL), both or none."
    )
    kafka_sasl_mechanism: (
        Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], _CAPITALS]
        | None
    ) = Field(None, description="How clients log in; needed for SASL.")
    kafka_username: str | None = Field(
        None, description="Who logs in; providers call it the API key, too."
    )
    kafka_password: SecretStr | None = Field(
        None, description="That user's password; providers call it the API secret, too."
    )
    kafka_password_file: File | None = Field(
        None, description="Holds the password, instead of KAFKA_PASSWORD."
    )
    kafka_token_file: File | None = Field(
        None, description="Holds the token for OAUTHBEARER; read anew for each connection."
    )
    kafka_ca_file: File | None = Field(
        None, description="Certificates that the brokers' are issued by; unset: the system's."
    )
    kafka_certificate_file: File | None = Field(
        None, description="The certificate that is shown to brokers, in PEM."
    )
    kafka_key_file: File | None = Field(None, description="That certificate's private key, in PEM.")
    kafka_key_password: SecretStr | None = Field(
        None, description="The passphrase of that key, if it has one."
    )
    app_id: KafkaName = Field(
        "user-registry", description="Consumer group, and prefix of the changelogs' names."
    )
    topic_prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = Field(
        "", description="Put before every topic's name, so that registries can share a cluster."
    )
    partitions: int = Field(
        8,
        ge=1,
        le=1000,
        description="Partitions of every topic of a new registry; see docs/cluster.md for more.",
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
        description="Hides email addresses in topics; the same for all workers and for ever. "
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
        1, ge=0, le=10, description="Workers that keep a copy of each table, to take over at once."
    )
    cache_mib: int = Field(
        64, ge=8, le=65536, description="RocksDB block cache of the whole worker, in MiB."
    )
    write_buffer_mib: int = Field(
        64, ge=8, le=65536, description="RocksDB write buffers of the whole worker, in MiB."
    )
    compression: Annotated[Literal["none", "lz4", "zstd"], _SMALL] = Field(
        "none", description="How what the registry writes to its own topics is compressed."
    )
    session_timeout_seconds: float = Field(
        10, ge=6, le=300, description="A worker that is silent for so long loses its partitions."
    )
    web_host: Annotated[str, AfterValidator(_host)] = Field(
        "127.0.0.1", description="Address to listen on."
    )
    web_port: Port = Field(6066, description="Port to listen on; each worker needs its own.")
    web_url: Url | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+/?$",
        description="Where other workers reach this one; unset: WEB_HOST:WEB_PORT.",
    )
    allow_open_bind: bool = Field(
        False, description="Allow WEB_HOST beyond loopback without access keys."
    )
    keys_file: File | None = Field(
        None, description="Holds the access keys; unset: nobody is asked for one."
    )
    jwt_jwks: str | None = Field(
        None,
        description="A file or an https address with the keys that sign JWTs; needs the extra jwt.",
    )
    jwt_audience: str | None = Field(None, description="Whom JWTs must be made for.")
    jwt_issuer: str | None = Field(None, description="Who must have made JWTs.")
    jwt_scope_claim: str = Field("scope", description="The claim of JWTs that holds scopes.")
    audit_file: File | None = Field(
        None,
        description="Where the audit log goes; unset: to stderr if KEYS_FILE is set, else nowhere.",
    )
    session_hours: float = Field(
        12, gt=0, le=8760, description="How long a person stays logged in to the pages."
    )
    trusted_proxies: int = Field(
        0, ge=0, le=16, description="Proxies in front whose X-Forwarded-* headers count."
    )
    cors_origins: str | None = Field(
        None,
        pattern=r"^(\*|https?://[^/\s,]+(\s*,\s*https?://[^/\s,]+)*)$",
        description="Sites whose scripts may call: origins separated by commas, or * for all.",
    )
    allowed_hosts: str | None = Field(
        None,
        description="Names by which clients may ask, beside this machine's: separated by commas.",
    )
    tls_cert_file: File | None = Field(
        None, description="This worker's certificate and those between it and the root, in PEM."
    )
    tls_key_file: File | None = Field(None, description="The certificate's private key, in PEM.")
    tls_ca_file: File | None = Field(
        None, description="Certificates that other workers' are issued by; unset: the system's."
    )
    worker_id: KafkaName | None = Field(
        None, description="The worker's name in its group, beside its address; unset: APP_ID."
    )
    ack_timeout_seconds: float = Field(
        1.8,
        gt=0,
        le=120,
        description="How long a write waits for the broker's acknowledgement; it is answered "
        "within twice as long.",
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
    max_writes_per_second: Rate | None = Field(
        None,
        description="Most writes that this worker takes in a second; the others get 503.",
    )
    client_writes_per_second: Rate | None = Field(
        None,
        description="Most writes of one client, by its key or address; the others get 429.",
    )
    max_reads_per_second: Rate | None = Field(
        None, description="Most reads that this worker answers in a second; the others get 503."
    )
    client_reads_per_second: Rate | None = Field(
        None, description="Most reads of one client, by its key or address; the others get 429."
    )
    slow_client_seconds: float = Field(
        30,
        ge=1,
        le=3600,
        description="A client is cut off that takes longer to send a body, or takes no answer.",
    )
    max_connections: int = Field(
        2_000,
        ge=16,
        le=1_000_000,
        description="Most connections of clients; fewer if the process may have fewer open files.",
    )
    client_connections: int | None = Field(
        None,
        ge=1,
        description="Most of one address; unset: half of them, and all behind TRUSTED_PROXIES.",
    )
    ready_lag_seconds: float = Field(
        300, gt=0, le=1e9, description="A worker whose records wait for longer is not ready."
    )
    stop_grace_seconds: float = Field(
        1, ge=0, le=600, description="How long a worker that stops still takes writes."
    )
    max_wait_seconds: float = Field(
        10, gt=0, le=60, description="How long a request may wait for a write to be settled."
    )
    max_body_kib: int = Field(1024, ge=1, le=102_400, description="Largest request body, in KiB.")
    max_batch_calls: int = Field(
        1000, ge=1, le=100_000, description="Most calls in one tRPC batch."
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], _CAPITALS] = Field(
        "INFO", description="Least severe level that is logged."
    )
    log_format: Annotated[Literal["console", "json"], _SMALL] = Field(
        "console", description="Logs for people or for machines."
    )

    otel_exporter_otlp_endpoint: Url | None = Field(
        None,
        pattern="^https?://",
        description="A collector of OpenTelemetry spans, http://host:4318; needs the extra otel.",
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
    def _bound_to_loopback(self) -> Self:
        if self.is_open and not self.allow_open_bind and self.keys_file is None:
            raise ValueError(
                "WEB_HOST: beyond loopback anyone may write; set KEYS_FILE to ask for access keys, "
                "or ALLOW_OPEN_BIND=1 if something in front of the worker keeps strangers out"
            )
        return self

    @model_validator(mode="after")
    def _hosts_are_named(self) -> Self:
        if not all(map(_is_host, self.hosts)):
            raise ValueError(
                "ALLOWED_HOSTS: must be names or addresses without ports, separated by commas "
                f"(got {shown(self.allowed_hosts)})"
            )
        return self

    @model_validator(mode="after")
    def _scripts_of_all_sites_need_keys(self) -> Self:
        if "*" in self.origins and self.keys_file is None:
            raise ValueError(
                "CORS_ORIGINS: * lets the scripts of any site write; set KEYS_FILE to ask for "
                "access keys, or name the sites"
            )
        return self

    @model_validator(mode="after")
    def _tokens_are_bound(self) -> Self:
        given = (self.jwt_jwks, self.jwt_audience, self.jwt_issuer)
        if any(given) and not all(given):
            raise ValueError("JWT_JWKS, JWT_AUDIENCE, JWT_ISSUER: set all of them or none")
        if self.jwt_jwks is not None and self.keys_file is None:
            raise ValueError("JWT_JWKS: needs KEYS_FILE, also if it holds no keys")
        if _is_plain_http(self.jwt_jwks):
            raise ValueError("JWT_JWKS: must be https: who answers for it makes keys")
        return self

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS_CERT_FILE, TLS_KEY_FILE: set both or neither")
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

    @model_validator(mode="after")
    def _secret_is_set(self) -> Self:
        hosts = (_host(broker.rpartition(":")[0]) for broker in self.kafka_brokers.split(","))
        if self.email_secret is None and not all(map(is_loopback, hosts)):
            raise ValueError(
                "EMAIL_SECRET: must be set for a broker beyond this machine: 16 or more random "
                "characters, the same for all workers and for ever"
            )
        return self

    @model_validator(mode="after")
    def _kafka_is_told_all(self) -> Self:
        for wrong in (_login_mistake(self), _tls_mistake(self), *_unreadable(self)):
            if wrong:
                raise ValueError(wrong)
        return self

    @property
    def generation(self) -> int:
        """How often the registry was repartitioned, as far as these settings know."""
        return self._generation

    @property
    def tidy_seconds(self) -> float:
        """How often what was erased is looked for: several times before it must be gone."""
        return self.erase_within_hours * 3600 / TIDY_TIMES

    def partitioned(self, partitions: int, generation: int) -> Self:
        """Return the settings with the partitions that the registry has."""
        there = self.model_copy(update={"partitions": partitions})
        there._generation = generation
        return there

    @property
    def kafka(self) -> Connection:
        """How every client of ours connects to the brokers."""
        return Connection(
            self.kafka_brokers,
            self.kafka_security_protocol,
            self.kafka_sasl_mechanism,
            self.kafka_username,
            self._kafka_password,
            self.kafka_token_file,
            self.kafka_ca_file,
            self.kafka_certificate_file,
            self.kafka_key_file,
            _revealed(self.kafka_key_password),
        )

    @property
    def _kafka_password(self) -> str | None:
        if self.kafka_password_file is not None:
            # Only here a password may begin or end with blanks.
            return self.kafka_password_file.read_text().strip("\r\n")
        return _revealed(self.kafka_password)

    @property
    def email_keys(self) -> EmailKeys:
        """What makes the keys of email addresses, by the secret."""
        secret = _LOCAL_SECRET if self.email_secret is None else self.email_secret
        return EmailKeys(secret.get_secret_value().encode())

    @property
    def is_open(self) -> bool:
        """Whether others than this machine reach the worker."""
        return not is_loopback(self.web_host)

    @property
    def signing_secrets(self) -> Sequence[bytes]:
        """What sessions and workers' requests are signed with; raise `SettingsError`."""
        secrets = _secrets_in(self.signing_secret) or _secrets_in(self.email_secret, whole=True)
        if not secrets:
            raise SettingsError(
                "EMAIL_SECRET: must be set if KEYS_FILE is, or SIGNING_SECRET: sessions and "
                "requests between workers are signed with what is made of it"
            )
        return [secret.encode() for secret in secrets]

    @property
    def audit_secret(self) -> bytes:
        """What hides ids in the audit log."""
        secrets = _secrets_in(self.email_secret, whole=True) or _secrets_in(self.signing_secret)
        return [*secrets, _LOCAL_SECRET.get_secret_value()][0].encode()

    @property
    def origins(self) -> frozenset[str]:
        """The sites whose scripts may call."""
        return frozenset(_listed(self.cors_origins))

    @property
    def hosts(self) -> Sequence[str]:
        """The names by which clients may ask, beside this machine's."""
        return _listed(self.allowed_hosts)

    @property
    def url(self) -> str:
        """Where other workers reach this one, without a slash at the end."""
        scheme = "http" if self.tls_cert_file is None else "https"
        here = f"{scheme}://{_bracketed(self.web_host)}:{self.web_port}"
        return (self.web_url or here).rstrip("/")


def _listed(text: str | None) -> list[str]:
    """Return what a setting lists, in lower case."""
    return [each.strip() for each in (text or "").lower().split(",") if each.strip()]


def _is_plain_http(url: str | None) -> bool:
    """Return whether an address is asked beyond this machine, and anybody between could answer."""
    parts = urlsplit(url or "")
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _secrets_in(secret: SecretStr | None, *, whole: bool = False) -> list[str]:
    """Return the secrets that a setting lists, or the ``whole`` as one."""
    text = _revealed(secret) or ""
    listed = [text] if whole else re.split(r"[,\s]+", text)
    return [each for each in listed if each]


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _login_mistake(given: Settings) -> str | None:
    """Return what is wrong with how clients log in to Kafka."""
    mechanism = given.kafka_sasl_mechanism
    password = given.kafka_password or given.kafka_password_file
    if not given.kafka_security_protocol.startswith("SASL"):
        unused = mechanism or given.kafka_username or password or given.kafka_token_file
        return (
            "KAFKA_SECURITY_PROTOCOL: must be SASL_SSL or SASL_PLAINTEXT, as a mechanism or "
            "credentials are set"
            if unused
            else None
        )
    if mechanism is None:
        return f"KAFKA_SASL_MECHANISM: must be set for {given.kafka_security_protocol}"
    if given.kafka_password and given.kafka_password_file:
        return "KAFKA_PASSWORD, KAFKA_PASSWORD_FILE: set one of them"
    if mechanism == OAUTHBEARER:
        return None if given.kafka_token_file else f"KAFKA_TOKEN_FILE: must be set for {mechanism}"
    if not (given.kafka_username and password):
        return f"KAFKA_USERNAME, KAFKA_PASSWORD: must be set for {mechanism}"
    return None


def _tls_mistake(given: Settings) -> str | None:
    """Return what is wrong with how brokers and clients show who they are."""
    if (given.kafka_certificate_file is None) != (given.kafka_key_file is None):
        return "KAFKA_CERTIFICATE_FILE, KAFKA_KEY_FILE: set both or neither"
    named = given.kafka_ca_file or given.kafka_certificate_file
    if named and not given.kafka_security_protocol.endswith("SSL"):
        return "KAFKA_SECURITY_PROTOCOL: must be SSL or SASL_SSL, as certificates are set"
    return None


def _unreadable(given: Settings) -> Iterator[str]:
    """Yield which of the files for Kafka cannot be read."""
    for name in _KAFKA_FILES:
        path: Path | None = getattr(given, name)
        try:
            text = "" if path is None else path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it holds no text"
            yield f"{name.upper()}: {path} cannot be read: {why}"
            continue
        if path is not None and not text:
            yield f"{name.upper()}: {path} is empty"
        if name in _ONE_LINE_FILES and STRAY.search(text):
            yield f"{name.upper()}: {path} must hold one line"


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is this machine, as seen from itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_host(text: str) -> bool:
    """Return whether a text is a name or an address, that of IPv6 with or without brackets."""
    if re.fullmatch(r"[a-z0-9._-]+", text):
        return True
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return ipaddress.ip_address(inner).version == 6
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def describe(error: ValidationError) -> str:
    """Return what is wrong with settings, a line each: ``PARTITIONS: must be … (got 0)``."""
    return "\n".join(map(_line, error.errors(include_url=False)))


def _line(mistake: ErrorDetails) -> str:
    if not mistake["loc"]:
        return mistake["msg"].removeprefix("Value error, ")
    name = str(mistake["loc"][0])
    given = "" if "secret" in name or "password" in name else f" (got {shown(mistake['input'])})"
    return f"{name.upper()}: {_in_words(name, mistake)}{given}"


def _in_words(name: str, mistake: ErrorDetails) -> str:
    if mistake["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(name, "must be letters, digits, '.', '_' and '-'")
    words = _WORDS.get(mistake["type"])
    # pydantic's own text is no template: it may hold braces of the input.
    if words is None:
        return mistake["msg"].removeprefix("Value error, ")
    return words.format(**mistake.get("ctx", {}))


#: Settings that promised what is not kept any more.
_REMOVED = {
    "SPOOL_MIB": "there is no spool any more: writes are refused while the broker is away; see "
    "CHANGELOG.md, and remove the setting"
}


def refuse_removed() -> None:
    """Raise `SettingsError` for a setting that is none any more."""
    for name, why in _REMOVED.items():
        if os.environ.get(name, "").strip() not in ("", "0"):
            raise SettingsError(f"{name}: {why}")


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
