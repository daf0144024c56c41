"""What is looked at before a worker starts, so that what is amiss is told in one line."""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from app.errors import SettingsError
from app.settings import Settings


@contextmanager
def checked(settings: Settings) -> Iterator[None]:
    """Check port and folder, and hold the folder while a worker runs; raise `SettingsError`."""
    _require_port(settings.web_host, settings.web_port)
    with locked(settings.data_dir):
        yield


def _require_port(host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(f"WEB_PORT: cannot listen on {host}:{port}: {_why(error)}") from None


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
