"""The spool's files: synced lines behind checksums, in order, whatever a crash leaves of them."""

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import spool
from app.spool import Kept, SpoolFiles, decode, encode

ADA: Kept = (3, b"ada", b'{"id":"ada"}')
EVE: Kept = (0, b"eve", None)


@given(st.integers(0, 999), st.text(), st.none() | st.text())
def test_a_record_comes_back_as_it_was(partition: int, key: str, value: str | None) -> None:
    kept = partition, key.encode(), None if value is None else value.encode()
    line = encode(kept)
    assert line.count(b"\n") == 1
    assert decode(line.rstrip(b"\n")) == kept


@given(st.data())
def test_a_line_that_is_not_whole_is_none(data: st.DataObject) -> None:
    line = encode(ADA).rstrip(b"\n")
    cut = data.draw(st.integers(0, len(line) - 1))
    assert decode(line[:cut]) is None
    changed = bytearray(line)
    changed[cut] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(changed)) is None


def test_files_are_read_in_the_order_in_which_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MAX_FILE_BYTES", 100)
    files, wrote = SpoolFiles(tmp_path / "spool"), []
    for number in range(30):
        kept = number, b"id %d" % number, b"{}"
        files.append(encode(kept))
        wrote.append(kept)
    assert len(files.names()) > 5
    assert [kept for path in files.names() for kept in files.read(path)] == wrote
    assert files.size() == sum(len(encode(kept)) for kept in wrote)


def test_what_comes_after_a_file_is_ended_goes_into_another(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path)
    files.append(encode(ADA))
    (first,) = files.ended()
    files.append(encode(EVE))
    assert list(files.read(first)) == [ADA]
    files.remove(first)
    (second,) = files.ended()
    assert list(files.read(second)) == [EVE]


def test_a_torn_line_is_skipped(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path)
    files.append(encode(ADA) + encode(EVE))
    (path,) = files.ended()
    os.truncate(path, path.stat().st_size - 3)
    assert list(files.read(path)) == [ADA]


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path)
    files.append(encode(ADA))
    (path,) = files.names()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_full_disk_leaves_no_half_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = SpoolFiles(tmp_path)
    files.append(encode(ADA))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            files.append(encode(EVE))
    files.append(encode(ADA))
    assert [kept for path in files.names() for kept in files.read(path)] == [ADA, ADA]


def test_a_full_disk_leaves_no_empty_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = SpoolFiles(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            files.append(encode(EVE))
    assert files.names() == []
