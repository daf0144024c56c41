"""Processes: recognised by id and time of creation, ended politely and then not."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local import processes
from local.processes import Record, RecordFile
from local.signals import signals_held

STUBBORN = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); signal.pause()"
)
OBEDIENT = "import signal; print('up', flush=True); signal.pause()"


@pytest.fixture
def started() -> Iterator[list[psutil.Popen]]:
    """Processes that a test starts; none of them outlives it."""
    running: list[psutil.Popen] = []
    yield running
    for process in running:
        processes.kill(process)
        if process.stdout:
            process.stdout.close()


def start(started: list[psutil.Popen], program: str) -> psutil.Popen:
    process = psutil.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    started.append(process)
    process.stdout.readline()
    return process


def test_a_record_finds_its_process_again(started: list[psutil.Popen], tmp_path: Path) -> None:
    process = start(started, OBEDIENT)
    file = RecordFile(tmp_path / "run" / "it.json")
    file.write(Record.of(process, port=6066))
    found = file.find()
    assert found is not None
    assert found.pid == process.pid


def test_another_process_with_the_same_id_is_a_stranger() -> None:
    me = psutil.Process()
    assert Record(pid=me.pid, created=me.create_time() - 60).find() is None


def test_a_small_correction_of_the_clock_makes_no_stranger() -> None:
    me = psutil.Process()
    assert Record(pid=me.pid, created=me.create_time() - 1).find() == me


def test_a_process_that_nobody_waited_for_is_dead(started: list[psutil.Popen]) -> None:
    process = start(started, "print('up', flush=True)")
    record = Record.of(process)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert record.find() is None


def test_half_a_record_is_no_record(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "it.json")
    file.path.write_text('{"pid": 12')
    assert file.read() is None


def test_a_missing_record_is_no_record(tmp_path: Path) -> None:
    assert RecordFile(tmp_path / "it.json").find() is None


def test_sigterm_is_enough_for_a_process_that_obeys(started: list[psutil.Popen]) -> None:
    process = start(started, OBEDIENT)
    processes.stop(process, grace_seconds=10)
    assert processes.ending(process) == "killed by SIGTERM"


def test_a_process_that_does_not_obey_is_killed_after_its_grace(
    started: list[psutil.Popen],
) -> None:
    process = start(started, STUBBORN)
    processes.stop(process, grace_seconds=0.1)
    assert processes.ending(process) == "killed by SIGKILL"


def test_several_processes_share_one_grace(started: list[psutil.Popen]) -> None:
    both = [start(started, STUBBORN), start(started, OBEDIENT)]
    processes.stop_all(both, grace_seconds=0.1)
    assert [processes.ending(process) for process in both] == [
        "killed by SIGKILL",
        "killed by SIGTERM",
    ]


def test_stopping_what_has_ended_is_no_error(started: list[psutil.Popen]) -> None:
    process = start(started, "print('up', flush=True)")
    processes.stop(process, grace_seconds=10)
    processes.stop(process, grace_seconds=10)
    assert processes.ending(process) in {"exit status 0", "killed by SIGTERM"}


def test_a_running_process_has_no_ending(started: list[psutil.Popen]) -> None:
    assert processes.ending(start(started, OBEDIENT)) is None


def test_a_process_is_started_in_a_session_of_its_own_and_recorded(
    started: list[psutil.Popen], tmp_path: Path
) -> None:
    record = RecordFile(tmp_path / "it.json")
    with (tmp_path / "log").open("wb") as output:
        command = [sys.executable, "-c", OBEDIENT]
        process = processes.spawn(command, output, record, port=1, cwd=tmp_path, env=os.environ)
    started.append(process)
    assert os.getsid(process.pid) == process.pid
    assert record.read() == Record.of(process, port=1)


def test_a_process_that_cannot_be_recorded_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    record = RecordFile(tmp_path / "file" / "it.json")
    before = set(psutil.Process().children())
    command = [sys.executable, "-c", OBEDIENT]
    with (tmp_path / "log").open("wb") as output, pytest.raises(OSError, match="exists"):
        processes.spawn(command, output, record, port=1, cwd=tmp_path, env=os.environ)
    assert set(psutil.Process().children()) == before


def test_a_signal_that_is_held_arrives_after_the_block() -> None:
    reached: list[str] = []

    def interrupted_block() -> None:
        with signals_held():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end of the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted_block()
    assert reached == ["the end of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
