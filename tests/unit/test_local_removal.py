"""``make clean-data``: the data is gone, or one line says what is left."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from local import removal
from local.folder import DataFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder with data, which DATA_DIR names."""
    folder = DataFolder(tmp_path / "data")
    folder.claim()
    (folder.worker(1) / "stores").mkdir(parents=True)
    (folder.worker(1) / "stores" / "users").write_text("everybody's data")
    monkeypatch.setenv("DATA_DIR", str(folder.path))
    return folder.path


def test_the_folder_is_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert removal.main() == 0
    assert not folder.exists()
    assert capsys.readouterr().out == f"Removed {folder}.\n"
    assert removal.main() == 0


def test_it_is_a_program_of_its_own(folder: Path) -> None:
    command = [sys.executable, "-I", "-S", str(removal.__file__)]
    subprocess.run(command, check=True, capture_output=True)
    assert not folder.exists()


def test_a_folder_of_others_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").touch()
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert removal.main() == 2
    assert capsys.readouterr().err == f"{tmp_path} is not the registry's: left alone.\n"
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("value", ["{}", " {}\n"])
def test_where_a_link_leads_the_data_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    monkeypatch.setenv("DATA_DIR", value.format(link))
    assert removal.main() == 0
    assert not folder.exists()
    assert not link.is_symlink()


def test_a_home_that_nobody_has_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", "~nobody-is-called-so/data")
    assert removal.main() == 2
    told = capsys.readouterr().err
    assert told.startswith("Not removed: ~nobody-is-called-so/data (")
    assert told.count("\n") == 1


def test_a_folder_of_the_home_is_meant_by_a_tilde(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("DATA_DIR", "~/data")
    assert removal.main() == 0
    assert not folder.exists()


def test_where_something_is_mounted_the_data_is_removed_and_the_folder_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    monkeypatch.setattr(
        Path, "rmdir", lambda path: refuse(path) if path == folder else os.rmdir(path)
    )
    assert removal.main() == 0
    assert list(folder.iterdir()) == []
    assert capsys.readouterr().out == f"Removed the data in {folder}; the folder stays.\n"


def test_what_links_lead_to_elsewhere_is_told_again_and_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (folder / "worker-1").rename(elsewhere)
    (folder / "worker-1").symlink_to(elsewhere)
    (folder / "within").symlink_to(folder / "logs")
    for _ in range(2):
        assert removal.main() == 2
        told = capsys.readouterr()
        assert (told.out, told.err) == ("", f"Not removed: {elsewhere} (a link leads there).\n")
    assert (elsewhere / "stores" / "users").exists()
    assert not (folder / "logs").exists()


def test_what_cannot_be_removed_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = folder / "worker-1" / "stores" / "users"

    def unlink(path: Path) -> None:
        if path == kept:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        os.unlink(path)

    monkeypatch.setattr(Path, "unlink", unlink)
    assert removal.main() == 2
    assert capsys.readouterr().err == f"Not removed: {kept} (Operation not permitted).\n"
    assert DataFolder(folder).is_ours()
