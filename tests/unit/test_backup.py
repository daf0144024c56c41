"""A backup: what is written is read again; a log is cut where offsets are missing."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import SettingsError
from app.kafka.partitioning import Partitioning
from app.ops.backup.exact import MAX_RUN, runs
from app.ops.backup.files import FORMAT, Kept, Manifest, Saved, Writing, read_records, require_sound


def kept(offset: int) -> Kept:
    """Return a record at an offset."""
    return Kept(offset, 5, b"key", b"value", [])


def manifest(*saved: Saved, format: int = FORMAT) -> Manifest:
    """Return a manifest."""
    return Manifest(
        format=format,
        app_id="a",
        topic_prefix="",
        rules="r",
        partitioning=Partitioning(partitions=1),
        saved=saved,
    )


def test_what_is_written_is_read_again_byte_by_byte(tmp_path: Path) -> None:
    records = [
        Kept(0, 1, None, None, []),
        Kept(3, 2, b"", b"\xff\x00", [("name", b"\xfe"), ("empty", b"")]),
        Kept(9, 3, "schlüssel".encode(), b"{}", []),
    ]
    file = Writing(tmp_path, "topic", 4)
    file.add(records[:2])
    file.add(records[2:])
    saved = file.end(0, 10)
    require_sound(tmp_path, saved)
    assert [
        kept._replace(headers=list(kept.headers)) for kept in read_records(tmp_path, saved)
    ] == (records)
    assert (saved.records, (tmp_path / saved.file).stat().st_mode & 0o777) == (3, 0o600)


def test_a_damaged_or_missing_file_is_told(tmp_path: Path) -> None:
    file = Writing(tmp_path, "topic", 0)
    saved = file.end(0, 0)
    (tmp_path / saved.file).write_bytes(b"something else")
    with pytest.raises(SettingsError, match="is damaged"):
        require_sound(tmp_path, saved)
    (tmp_path / saved.file).unlink()
    with pytest.raises(SettingsError, match="No such file"):
        require_sound(tmp_path, saved)


def test_only_a_finished_backup_of_a_known_format_is_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no backup that was finished"):
        Manifest.read(tmp_path)
    manifest().write(tmp_path)
    assert Manifest.read(tmp_path) == manifest()
    manifest(format=FORMAT + 1).write(tmp_path)
    with pytest.raises(SettingsError, match="newer version"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(SettingsError, match="cannot be read"):
        Manifest.read(tmp_path)


@given(st.sets(st.integers(0, 60)), st.integers(0, 5), st.integers(0, 5))
def test_runs_and_gaps_cover_every_offset_of_a_log(
    offsets: set[int], before: int, behind: int
) -> None:
    start = max(min(offsets, default=0) - before, 0)
    end = max(offsets, default=0) + 1 + behind
    at = start
    found: list[Kept] = []
    for run in runs(map(kept, sorted(offsets)), start, end):
        assert [record.offset for record in run.records] == list(range(at, at + len(run.records)))
        found += run.records
        at += len(run.records) + run.gap
    assert (at, len(found)) == (end, len(offsets))


def test_a_long_run_is_cut() -> None:
    cut = list(runs(map(kept, range(MAX_RUN + 1)), 0, MAX_RUN + 2))
    assert [(len(run.records), run.gap) for run in cut] == [(MAX_RUN, 0), (1, 1)]
