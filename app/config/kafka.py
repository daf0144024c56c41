"""Settings of the connection to Kafka: brokers, login and TLS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from app.config.connection import OAUTHBEARER, Connection
from app.config.secret_files import read_text, revealed
from app.config.source import SettingsGroup
from app.config.values import CAPITALS, File, brokers
from app.domain.texts import STRAY

#: The files by which Kafka clients connect.
_FILES = (
    "kafka_password_file",
    "kafka_token_file",
    "kafka_ca_file",
    "kafka_certificate_file",
    "kafka_key_file",
)
#: Of these files, those that hold nothing but a secret.
_ONE_LINE_FILES = ("kafka_password_file", "kafka_token_file")


class KafkaSettings(SettingsGroup):
    """How workers and commands connect to Kafka."""

    kafka_brokers: Annotated[str, AfterValidator(brokers)] = Field(
        "127.0.0.1:9092",
        description="Bootstrap brokers: host:port, several separated by commas.",
    )
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], CAPITALS
    ] = Field(
        "PLAINTEXT", description="Whether the brokers use TLS (SSL), a login (SASL), both or none."
    )
    kafka_sasl_mechanism: (
        Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], CAPITALS]
        | None
    ) = Field(None, description="How clients log in. Needed for SASL.")
    kafka_username: str | None = Field(
        None, description="The user who logs in. Some providers call it the API key."
    )
    kafka_password: SecretStr | None = Field(
        None, description="The password. Some providers call it the API secret."
    )
    kafka_password_file: File | None = Field(
        None, description="Holds the password, instead of KAFKA_PASSWORD."
    )
    kafka_token_file: File | None = Field(
        None, description="Holds the token for OAUTHBEARER. Read for each connection."
    )
    kafka_ca_file: File | None = Field(
        None, description="Authorities of the brokers' certificates. Unset: the system's."
    )
    kafka_certificate_file: File | None = Field(
        None, description="The client certificate for brokers, in PEM."
    )
    kafka_key_file: File | None = Field(None, description="That certificate's private key, in PEM.")
    kafka_key_password: SecretStr | None = Field(
        None, description="The passphrase of that key, if it has one."
    )

    @model_validator(mode="after")
    def _connection_is_complete(self) -> Self:
        for wrong in (_login_mistake(self), _tls_mistake(self), *_unreadable(self)):
            if wrong:
                raise ValueError(wrong)
        return self

    @property
    def kafka(self) -> Connection:
        """The connection that all Kafka clients use."""
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
            revealed(self.kafka_key_password),
        )

    @property
    def _kafka_password(self) -> str | None:
        if self.kafka_password_file is not None:
            # A password in this file may begin or end with blanks.
            return self.kafka_password_file.read_text().strip("\r\n")
        return revealed(self.kafka_password)


def _login_mistake(given: KafkaSettings) -> str | None:
    """Return what is wrong with the login to Kafka; None if nothing is."""
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


def _tls_mistake(given: KafkaSettings) -> str | None:
    """Return what is wrong with the certificates for Kafka; None if nothing is."""
    if (given.kafka_certificate_file is None) != (given.kafka_key_file is None):
        return "KAFKA_CERTIFICATE_FILE, KAFKA_KEY_FILE: set both or neither"
    named = given.kafka_ca_file or given.kafka_certificate_file
    if named and not given.kafka_security_protocol.endswith("SSL"):
        return "KAFKA_SECURITY_PROTOCOL: must be SSL or SASL_SSL, as certificates are set"
    return None


def _unreadable(given: KafkaSettings) -> Iterator[str]:
    """Yield what is wrong with each file for Kafka that cannot be used."""
    for name in _FILES:
        path: Path | None = getattr(given, name)
        if path is None:
            continue
        try:
            text = read_text(name, path).strip()
        except ValueError as error:
            yield str(error)
            continue
        if not text:
            yield f"{name.upper()}: {path} is empty"
        if name in _ONE_LINE_FILES and STRAY.search(text):
            yield f"{name.upper()}: {path} must hold one line"
