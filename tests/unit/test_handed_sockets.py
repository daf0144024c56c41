"""Sockets that are handed from process to process: told apart by their names, and fail closed."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config.settings import Settings
from app.domain.errors import SettingsError
from app.system import handed_sockets
from app.system.handed_sockets import INTERNAL, PUBLIC, Inherited
from app.worker import preflight
from local.machine import HOST, free_port
from local.places import PROJECT

TELLS = """
import json
from app.system.handed_sockets import inherited
told = [[each.name, each.is_shared, each.socket.getsockname()[1]] for each in inherited()]
print(json.dumps(told))
"""


@pytest.fixture
def shared() -> Iterator[socket.socket]:
    """Return a socket that listens."""
    with socket.create_server((HOST, 0)) as listening:
        yield listening


def test_a_program_gets_the_socket_of_who_starts_it(shared: socket.socket) -> None:
    number = shared.fileno()
    done = subprocess.run(
        [sys.executable, "-m", "local.handover", str(number), sys.executable, "-c", TELLS],
        pass_fds=[number],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if name != "LISTEN_PID"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout) == [["shared", True, shared.getsockname()[1]]], done.stderr


@pytest.mark.parametrize(
    ("names", "shared_ones"),
    [
        ("public:internal", [False, False]),
        ("user-registry.socket:internal", [True, False]),
        # Who gives no names is no systemd, but a worker of before.
        ("", [False, False]),
    ],
)
def test_what_a_worker_opened_itself_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, shared: socket.socket, names: str, shared_ones: list[bool]
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", names)
    monkeypatch.setattr(handed_sockets, "_FIRST", os.dup(shared.fileno()))
    dups = [shared.dup(), shared.dup()]
    monkeypatch.setattr(socket, "socket", lambda fileno: dups.pop())
    handed_sockets.inherited.cache_clear()
    try:
        found = handed_sockets.inherited()
    finally:
        os.close(handed_sockets._FIRST)
        handed_sockets.inherited.cache_clear()
    assert [each.is_shared for each in found] == shared_ones
    for each in found:
        each.socket.close()


def check(monkeypatch: pytest.MonkeyPatch, handed: list[Inherited], **given: object) -> None:
    """Check the addresses of a worker that inherits some sockets."""
    monkeypatch.setattr(preflight, "inherited", lambda: handed)
    preflight._require_addresses(Settings.model_validate(given))


def test_a_shared_address_needs_an_internal_one(
    monkeypatch: pytest.MonkeyPatch, shared: socket.socket
) -> None:
    handed = [Inherited(shared, "shared")]
    with pytest.raises(SettingsError, match=r"^INTERNAL_PORT: must be set"):
        check(monkeypatch, handed)
    check(monkeypatch, handed, internal_port=free_port())
    check(monkeypatch, [Inherited(shared, PUBLIC)])


def test_an_internal_port_that_is_taken_is_one_line(
    monkeypatch: pytest.MonkeyPatch, shared: socket.socket
) -> None:
    port = shared.getsockname()[1]
    handed = [Inherited(shared, "shared")]
    with pytest.raises(SettingsError, match=rf"^INTERNAL_PORT: cannot listen on {HOST}:{port}: "):
        check(monkeypatch, handed, internal_port=port)
    check(monkeypatch, [*handed, Inherited(shared, INTERNAL)], internal_port=port)


def test_a_shared_address_beyond_loopback_needs_keys_whatever_web_host_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = free_port()
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        handed = [Inherited(everywhere, "shared")]
        with pytest.raises(SettingsError, match=r"^KEYS_FILE: must be set, or ALLOW_OPEN_BIND=1"):
            check(monkeypatch, handed, internal_port=port)
        check(monkeypatch, handed, internal_port=port, allow_open_bind=True)
        check(monkeypatch, handed, internal_port=port, keys_file=tmp_path / "keys.json")
