"""What is looked at before a worker starts, so that what is amiss is told in one line."""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from app.access.files import read_keys
from app.errors import SettingsError
from app.restart import inherited
from app.settings import Settings
from app.telemetry import provider_for
from app.tls import client_tls, server_tls


@contextmanager
def checked(settings: Settings) -> Iterator[None]:
    """Check port and folder, and hold the folder while a worker runs; raise `SettingsError`."""
    if not inherited():
        require_port(settings.web_host, settings.web_port)
    _require_keys(settings)
    server_tls(settings)
    client_tls(settings)
    if (spans := provider_for(settings)) is not None:
        spans.shutdown()  # it is possible
    with locked(settings.data_dir):
        yield


def require_port(host: str, port: int) -> None:
    """Check that a worker could listen there; raise `SettingsError`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(f"WEB_PORT: cannot listen on {host}:{port}: {_why(error)}") from None


def _require_keys(settings: Settings) -> None:
    """Refuse keys that cannot be read, and an open door that no key opens."""
    if settings.keys_file is None:
        return
    # Without it, nothing can be signed.
    _ = settings.signing_secret
    keys = read_keys(settings.keys_file)
    if settings.is_open and all(key.is_expired for key in keys):
        raise SettingsError(
            f"KEYS_FILE: {settings.keys_file} holds no key that is valid; create one: "
            "python -m app keys create --name NAME --scope admin"
        )


def locked(folder: Path) -> IO[bytes]:
    """Return the lock of a worker's folder, held until it is closed; raise `SettingsError`."""
    # The kernel lets go of the lock whatever ends the process.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("ab")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(f"DATA_DIR: {folder} is in use by another worker") from None
    except OSError as error:
        raise SettingsError(f"DATA_DIR: {folder} cannot be used: {_why(error)}") from None
    return lock


def _why(error: OSError) -> str:
    return error.strerror or str(error)
