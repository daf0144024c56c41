"""TLS: this worker's certificate, renewed without a restart; the check of others'."""

import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import structlog

from app.config.settings import Settings
from app.domain.errors import SettingsError
from app.system.file_fingerprint import FileFingerprint, fingerprint_of

log = structlog.get_logger(__name__)

#: How often new connections check whether the files have changed.
LOOK_EVERY_SECONDS = 1.0

#: OpenSSL's numbers of why a certificate is not valid today.
_NOT_TODAY = {9: "is not valid yet", 10: "has expired"}


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """Return how this worker serves https; None if it serves http; raise `SettingsError`."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificate(settings.tls_cert_file, settings.tls_key_file).context


def client_tls(settings: Settings) -> ssl.SSLContext:
    """Return how other workers' certificates are checked; raise `SettingsError`."""
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
    except OSError as error:
        raise SettingsError(f"TLS_CA_FILE: cannot be used: {_why(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Certificate:
    """A certificate and its key, from files that may change at any time.

    OpenSSL calls back at the beginning of each handshake. Then the files are checked, and the
    connection gets their present content. If a renewal is broken, the last good certificate stays
    in use.
    """

    def __init__(self, cert: Path, key: Path, clock: Callable[[], float] = monotonic) -> None:
        self._files = cert, key
        self._clock = clock
        self._fingerprints = self._look()
        self._next_look = clock() + LOOK_EVERY_SECONDS
        self._now = loaded(cert, key)
        #: It stays the same when the files change.
        self.context = loaded(cert, key)
        self.context.sni_callback = self._choose

    def _look(self) -> list[FileFingerprint]:
        return list(map(fingerprint_of, self._files))

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY_SECONDS
            self._renew()
        connection.context = self._now

    def _renew(self) -> None:
        stamps = self._look()
        if stamps == self._fingerprints:
            return
        self._fingerprints = stamps
        try:
            self._now = loaded(*self._files)
        except SettingsError as error:
            log.error("the last good certificate stays in use", reason=str(error))
        else:
            log.info("the certificate was renewed")


def loaded(cert: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context, with a certificate that is valid today; raise `SettingsError`."""
    for name, path in (("TLS_CERT_FILE", cert), ("TLS_KEY_FILE", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{name}: {path} cannot be read: {_why(error)}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without this, OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    except OSError as error:
        raise SettingsError(f"TLS_CERT_FILE, TLS_KEY_FILE: {_mismatch(error)}") from None
    _require_valid_today(context, cert)
    return context


def expiry(cert: Path, key: Path) -> datetime:
    """Return when a certificate expires; raise `SettingsError` if it is not valid today."""
    shown = _require_valid_today(loaded(cert, key), cert)
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)


def _mismatch(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return "must hold a certificate and its key in PEM, the key without a passphrase"


def _require_valid_today(server: ssl.SSLContext, cert: Path) -> Mapping[str, object]:
    """Connect a client that trusts only this certificate; return what it saw."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cert)
        return _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        reason = _NOT_TODAY.get(error.verify_code, "is not valid for a server")
        raise SettingsError(f"TLS_CERT_FILE: {cert} {reason}") from None
    except OSError:
        raise SettingsError(f"TLS_CERT_FILE: {cert} is not valid for a server") from None


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> Mapping[str, object]:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(back, there)
    answers = server.wrap_bio(there, back, server_side=True)
    # The client receives and checks the certificate in its second step.
    for side in (asks, answers, asks):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return asks.getpeercert() or {}


def _why(error: OSError) -> str:
    return error.strerror or str(error)
