"""Ports and room: what is missing is said in one line, before anything is started."""

import os
import socket
from pathlib import Path

import pytest

from local import machine
from local.errors import DataFolderError, PortTakenError


def test_a_free_port_can_be_listened_on() -> None:
    machine.require_port(machine.free_port(), "WEB_PORT")


def test_a_taken_port_is_named_together_with_its_setting() -> None:
    with socket.create_server((machine.HOST, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"^port {port} is used .*\(WEB_PORT\)$"):
            machine.require_port(port, "WEB_PORT")


def test_a_free_port_is_another_one_than_the_one_to_avoid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "FREE_PORTS", range(20_000, 20_002))
    monkeypatch.setattr(machine, "is_free", lambda _port: True)
    assert machine.free_port(besides=20_000) == 20_001


def test_free_ports_in_a_row_are_all_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FREE_PORTS", range(20_000, 20_004))
    monkeypatch.setattr(machine, "is_free", lambda port: port not in (20_001, 20_005, 20_006))
    assert machine.free_port(count=3) == 20_002


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    machine.require_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(DataFolderError, match=r"a cannot be written to: File exists$"):
        machine.require_folder(tmp_path / "a")


def test_too_little_room_is_told_in_figures(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match=r"MiB free, and at least \d+ MiB are needed"):
        machine.require_room(tmp_path, minimum_bytes=2**60)
