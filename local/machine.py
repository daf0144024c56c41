"""What this machine has to offer: ports and room on the disk."""

import errno
import random
import shutil
import socket
from pathlib import Path

from app.system.files import make_private
from local.console import say
from local.errors import DataFolderError, PortTakenError

#: Everything listens here, and nowhere else.
HOST = "127.0.0.1"
#: Where free ports are looked for: below those that systems give to outgoing connections, one of
#: which could otherwise take a port between the choice and its use.
FREE_PORTS = range(20_000, 32_000)
#: What must be free before anything is started: room for Kafka's first segments and the tables.
MINIMUM_FREE_BYTES = 1024**3


def free_port(besides: int = 0, count: int = 1) -> int:
    """Return a port that nothing listens on at the moment, another one than ``besides``.

    With ``count`` it is the first of so many in a row.
    """
    candidates = random.sample(FREE_PORTS, len(FREE_PORTS))
    rows = (range(port, port + count) for port in candidates)
    return next(row[0] for row in rows if besides not in row and all(map(is_free, row)))


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_port(port: int, setting: str) -> None:
    """Raise `PortTakenError` unless a server could listen on a port."""
    if not is_free(port):
        raise _taken(port, setting)


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Return a socket that listens; raise `PortTakenError` if that cannot be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _taken(port, setting) from None
        raise PortTakenError(
            f"{setting}: cannot listen on {host}:{port}: {error.strerror or error}"
        ) from None


def _taken(port: int, setting: str) -> PortTakenError:
    return PortTakenError(
        f"port {port} is used by another program: end it, or choose another ({setting})"
    )


def require_folder(folder: Path, marker: str | None = None) -> None:
    """Make a private folder unless it is there; raise `DataFolderError` if it cannot be written to.

    A file that is named like the marker says that the folder is ours, and is nobody else's.
    """
    try:
        if not make_private(folder, marker):
            say(f"Others than its owner may use {folder}: chmod 700 it")
        probe = folder / ".writable"
        probe.write_text("yes")
        probe.unlink()
    except OSError as error:
        raise DataFolderError(f"{folder} cannot be written to: {error.strerror}") from None


def require_room(folder: Path, minimum_bytes: int = MINIMUM_FREE_BYTES) -> None:
    """Raise `DataFolderError` if the disk of a folder has too little room."""
    free = shutil.disk_usage(folder).free
    if free < minimum_bytes:
        raise DataFolderError(
            f"{folder} has {free // 1024**2} MiB free, and at least {minimum_bytes // 1024**2} MiB "
            "are needed: make room, or set DATA_DIR to a folder on another disk"
        )
