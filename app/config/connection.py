"""How Kafka clients connect: options of aiokafka. Of Faust: ``app/worker/credentials.py``."""

import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from aiokafka.abc import AbstractTokenProvider

from app.domain.errors import SettingsError
from app.system.file_fingerprint import FileFingerprint, fingerprint_of

OAUTHBEARER: Final = "OAUTHBEARER"


class FileToken(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka carries no types
    """A token from a file, read for each connection. Another program renews it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def token(self) -> str:
        """Return the token that the file holds now."""
        return self._file.read_text().strip()


@dataclass(frozen=True, slots=True)
class Connection:
    """The brokers, and how they and their clients authenticate each other."""

    brokers: str
    protocol: str = "PLAINTEXT"
    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: str | None = field(default=None, repr=False)

    @property
    def addresses(self) -> list[str]:
        """The brokers to begin with, each ``host:port``."""
        return self.brokers.split(",")

    @property
    def is_secret(self) -> bool:
        """Whether the connection uses TLS."""
        return self.protocol.endswith("SSL")

    @property
    def has_login(self) -> bool:
        """Whether clients log in with SASL."""
        return self.protocol.startswith("SASL")

    def client(self) -> dict[str, Any]:
        """Return the options of every aiokafka client; raise `SettingsError`."""
        return {"bootstrap_servers": self.brokers, **self.security()}

    def security(self) -> dict[str, Any]:
        """Return the options that a single connection takes, too."""
        login = self._login() if self.has_login else {}
        return {"security_protocol": self.protocol, "ssl_context": self.tls(), **login}

    def _login(self) -> dict[str, Any]:
        if self.mechanism == OAUTHBEARER:
            return {
                "sasl_mechanism": OAUTHBEARER,
                "sasl_oauth_token_provider": self.token(),
            }
        return {
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }

    def token(self) -> FileToken:
        """Return where tokens for OAUTHBEARER are read; raise `SettingsError`."""
        if self.token_file is None:
            raise SettingsError(f"KAFKA_TOKEN_FILE: must be set for {OAUTHBEARER}")
        return FileToken(self.token_file)

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context: how brokers are checked, and the client certificate."""
        if not self.is_secret:
            return None
        files = self.ca_file, self.certificate_file, self.key_file
        return _context(
            *files, self.key_password, tuple(file and fingerprint_of(file) for file in files)
        )


# Reading the system's authorities is slow, and a worker makes hundreds of clients.
@lru_cache(maxsize=4)
def _context(
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    password: str | None,
    _fingerprints: tuple[FileFingerprint, ...],
) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SettingsError(f"KAFKA_CA_FILE: {ca} cannot be used: {_why(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is None:
        return context
    try:
        # Without this, OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: password or "")
    except OSError as error:
        raise SettingsError(f"KAFKA_CERTIFICATE_FILE, KAFKA_KEY_FILE: {_mismatch(error)}") from None
    return context


def _mismatch(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return f"cannot be read: {_why(error)}"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return "must hold a certificate and its key in PEM, the key's passphrase in KAFKA_KEY_PASSWORD"


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "it holds no certificate in PEM"
    return error.strerror or str(error)
