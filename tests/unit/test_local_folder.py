"""The data folder: ours once claimed, and nobody else's folder is ever claimed."""

from pathlib import Path

import pytest

from local.errors import DataFolderError
from local.folder import DataFolder


def test_a_new_folder_becomes_ours(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.claim()
    assert folder.is_ours()


def test_a_folder_that_is_ours_is_claimed_again(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.claim()
    (tmp_path / "kafka").mkdir()
    folder.claim()
    assert folder.is_ours()


def test_a_folder_with_files_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(DataFolderError, match="holds files that are not the registry's"):
        DataFolder(tmp_path).claim()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_folder_s_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(DataFolderError, match="data cannot be written to"):
        DataFolder(tmp_path / "data").claim()
