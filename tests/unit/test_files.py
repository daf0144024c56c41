"""Whole files: they stand or do not, keep owner and rights, and nobody else may read them."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.access.files import locked_keys, write_keys
from app.ops.backup.files import Writing
from app.system.files import make_private, private, whole_file, write_whole
from app.worker.preflight import locked
from local import processes
from local.folder import DataFolder
from local.processes import RecordFile

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def _open_umask() -> Iterator[None]:
    former = os.umask(0)
    yield
    os.umask(former)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_two_writers_of_one_file_leave_one_of_them_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole_file(path) as one, whole_file(path) as other:
        one.write(b"one" * 10_000)
        other.write(b"other")
    assert path.read_bytes() == b"one" * 10_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with suppress(ZeroDivisionError), whole_file(path) as file:
        file.write(b"after")
        _ = 1 / 0
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    write_whole(path, "text")
    assert path.read_text() == "text"


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o640)
    write_whole(path, "after")
    assert (path.read_text(), mode_of(path)) == ("after", 0o640)


@AS_ROOT
def test_a_file_that_root_replaces_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, ())
    os.chown(path, NOBODY, NOBODY)
    with locked_keys(path) as keys:
        write_keys(path, keys)
    assert {(each.stat().st_uid, each.stat().st_gid) for each in tmp_path.iterdir()} == {
        (NOBODY, NOBODY)
    }
    assert mode_of(path) == 0o600


@AS_ROOT
def test_a_folder_that_root_locks_first_is_still_its_owner_s(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    locked(tmp_path).close()
    assert (tmp_path / "lock").stat().st_uid == NOBODY


@pytest.mark.parametrize("there", [True, False])
def test_of_a_link_the_target_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    if there:
        target.write_text("before")
    between = tmp_path / "between"
    between.symlink_to(Path("elsewhere") / "file")
    link.symlink_to(between)
    write_whole(link, "after")
    assert link.is_symlink()
    assert between.is_symlink()
    assert target.read_text() == "after"


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "link", "text")


def test_a_pipe_is_written_straight(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, "text")
    reader.join(30)
    assert read == [b"text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_whole(Path("/dev/null"), "text")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_standard_output_is_written_straight(tmp_path: Path) -> None:
    program = "from app.system.files import write_whole; from pathlib import Path;"
    command = [sys.executable, "-c", f"{program} write_whole(Path('/dev/stdout'), 'text')"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"text"
    with (tmp_path / "file").open("wb") as output:
        subprocess.run(command, stdout=output, check=True)
    assert (tmp_path / "file").read_text() == "text"


# -- what others may read


@pytest.mark.usefixtures("_open_umask")
def test_with_no_umask_others_may_read_nothing_that_is_made(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.claim()
    locked(folder.worker(1)).close()
    RecordFile(folder.path / "run" / "worker-1.json").write(processes.Record(pid=1, created=1))
    keys = tmp_path / "access" / "keys.json"
    with locked_keys(keys):
        write_keys(keys, ())
    make_private(tmp_path / "backup")
    Writing(tmp_path / "backup", "topic", 0).end(0, 0)
    with private():
        (tmp_path / "log").write_text("text")
    assert {path: oct(mode_of(path)) for path in tmp_path.rglob("*") if mode_of(path) & 0o077} == {}
    assert os.umask(0) == 0


@pytest.mark.usefixtures("_open_umask")
def test_what_is_started_makes_private_files(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        process = processes.spawn(
            (sys.executable, "-c", "open('made', 'w')"),
            output,
            RecordFile(tmp_path / "record.json"),
            port=0,
            cwd=tmp_path,
            env={},
        )
    assert processes.has_ended(process, 30)
    assert mode_of(tmp_path / "made") == 0o600


def test_a_folder_of_ours_is_narrowed_and_one_of_others_is_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert make_private(tmp_path, "marker")  # it is empty
    tmp_path.chmod(0o755)
    (tmp_path / "file").touch()
    assert not make_private(tmp_path, "marker")
    assert mode_of(tmp_path) == 0o755
    (tmp_path / "marker").touch()
    assert make_private(tmp_path, "marker")
    assert mode_of(tmp_path) == 0o700


def test_a_folder_that_is_there_to_be_shared_is_left_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert not make_private(tmp_path)
    assert mode_of(tmp_path) == 0o1777
