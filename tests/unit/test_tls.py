"""Certificates: what is wrong with one is told in a line, and a renewed one is taken at once."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from app.config.settings import Settings
from app.config.tls import Certificate, client_tls, loaded, server_tls
from app.domain.errors import SettingsError
from tests.support.authority import Authority, Files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return an authority that has issued a certificate."""
    made = Authority(tmp_path)
    made.issue()
    return made


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def _answering(context: ssl.SSLContext) -> Iterator[int]:
    """Shake hands with whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True):
                        pass
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serial(port: int, authority: Authority) -> str:
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as safe,
    ):
        certificate = safe.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_a_renewed_certificate_is_taken_by_new_connections(authority: Authority) -> None:
    clock = Clock()
    served = Certificate(*authority.files, clock)
    with _answering(served.context) as port:
        first = _serial(port, authority)
        authority.issue()
        assert _serial(port, authority) == first
        clock.now += 1
        assert _serial(port, authority) != first


def test_a_broken_renewal_keeps_the_certificate(authority: Authority) -> None:
    clock = Clock()
    served = Certificate(*authority.files, clock)
    with _answering(served.context) as port, capture_logs() as logged:
        first = _serial(port, authority)
        authority.files[0].write_text("nonsense")
        for _ in range(2):
            clock.now += 1
            assert _serial(port, authority) == first
        assert [line["log_level"] for line in logged] == ["error"]
        authority.issue()
        clock.now += 1
        assert _serial(port, authority) != first


def test_no_version_before_1_2_is_spoken(authority: Authority) -> None:
    assert loaded(*authority.files).minimum_version is ssl.TLSVersion.TLSv1_2
    assert client_tls(Settings()).minimum_version is ssl.TLSVersion.TLSv1_2


def _told(files: Files) -> str:
    settings = Settings(tls_cert_file=files[0], tls_key_file=files[1])
    with pytest.raises(SettingsError) as caught:
        server_tls(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_not_there_are_told(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.files
    assert _told((tmp_path / "x", key)).startswith("TLS_CERT_FILE: ")
    assert _told((cert, tmp_path / "x")).startswith("TLS_KEY_FILE: ")


def test_another_certificates_key_is_told(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    other.issue()
    assert "the key is not the certificate's" in _told((authority.files[0], other.files[1]))


@pytest.mark.parametrize("broken", [0, 1])
def test_what_is_no_pem_is_told(authority: Authority, broken: int) -> None:
    authority.files[broken].write_text("nonsense")
    assert "must hold a certificate and its key in PEM" in _told(authority.files)


def test_a_certificate_that_is_not_valid_today_is_told(authority: Authority) -> None:
    now = datetime.now(UTC)
    authority.issue(not_before=now - timedelta(days=2), not_after=now - timedelta(days=1))
    assert _told(authority.files).endswith("has expired")
    authority.issue(not_before=now + timedelta(days=1), not_after=now + timedelta(days=2))
    assert _told(authority.files).endswith("is not valid yet")


def test_a_key_with_a_passphrase_is_told_and_nobody_is_asked(authority: Authority) -> None:
    key = serialization.load_pem_private_key(authority.files[1].read_bytes(), None)
    authority.files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "without a passphrase" in _told(authority.files)


def test_an_authority_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for path in (tmp_path / "ca.pem", tmp_path / "nothing"):
        with pytest.raises(SettingsError, match=r"^TLS_CA_FILE: ") as caught:
            client_tls(Settings(tls_ca_file=path))
        assert "\n" not in str(caught.value)
