"""Processes that this package started: recorded in small files, so that a later run knows them.

A process id alone names nothing, as ids are used again; together with the time at which the
process was created it does. Nothing but a recorded process is ever sent a signal.
"""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

import psutil
from pydantic import BaseModel, ValidationError

from app.system.files import PRIVATE_UMASK, write_whole
from local.signals import signals_held

#: psutil derives the creation time from the wall clock, which may be adjusted in between.
CLOCK_TOLERANCE_SECONDS = 2.0
#: How long the kernel may take to remove a process after SIGKILL.
KILL_GRACE_SECONDS = 5.0
#: How long the kernel may take to hand over the exit status of a child.
REAP_SECONDS = 0.1
POLL_SECONDS = 0.02

#: What this very process has started, by process id: only so can an exit status be had.
children: dict[int, psutil.Popen] = {}


class Record(BaseModel):
    """Who a process is, on which port it listens, and who started it where that matters."""

    pid: int
    created: float
    port: int = 0
    parent: "Record | None" = None

    @classmethod
    def of(cls, process: psutil.Process, port: int = 0) -> Self:
        """Return the record of a process that runs now."""
        return cls(pid=process.pid, created=process.create_time(), port=port)

    def find(self) -> psutil.Process | None:
        """Return the recorded process if it is still alive."""
        try:
            process = own_child(self.pid) or psutil.Process(self.pid)
            return process if self._is(process) and is_alive(process) else None
        except psutil.NoSuchProcess:
            return None

    def _is(self, process: psutil.Process) -> bool:
        return abs(process.create_time() - self.created) < CLOCK_TOLERANCE_SECONDS


class RecordFile:
    """The file that holds the record of one process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Record) -> None:
        """Write the record, all of it or nothing; raises `OSError` when the disk refuses."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, record.model_dump_json())

    def read(self) -> Record | None:
        """Return what is recorded, or None if nothing readable is."""
        try:
            return Record.model_validate_json(self.path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def find(self) -> psutil.Process | None:
        """Return the recorded process if it is still alive."""
        record = self.read()
        return record.find() if record else None

    def remove(self) -> None:
        """Forget the process."""
        self.path.unlink(missing_ok=True)


def spawn(
    command: Sequence[str],
    output: IO[bytes],
    record: RecordFile,
    *,
    port: int,
    cwd: Path,
    env: Mapping[str, str],
    keep_open: Sequence[int] = (),
) -> psutil.Popen:
    """Start a program in a session of its own, where no Ctrl-C reaches it, and record it.

    ``output`` takes what it prints; it inherits the file descriptors in ``keep_open``. Raises
    `OSError`; then nothing is left running.
    """
    with signals_held():
        process = psutil.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=keep_open,
            umask=PRIVATE_UMASK,
        )
        children[process.pid] = process
        try:
            record.write(Record.of(process, port))
        except OSError:
            kill(process)
            raise
    return process


def own_child(pid: int) -> psutil.Process | None:
    """Return the process with an id if this very process has started it, and it is alive."""
    child = children.get(pid)
    return child if child and is_alive(child) else None


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still runs; one that has ended but was not waited for does not."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            # Java's main thread may be gone while others still write to files.
            return process.num_threads() > 1
        return process.is_running()
    except psutil.NoSuchProcess:
        return False


def ending(process: psutil.Process) -> str | None:
    """Return how a process ended, as words; None while it runs."""
    if is_alive(process):
        return None
    return describe_status(exit_status(process))


def exit_status(process: psutil.Process) -> int | None:
    """Return the exit status of a process that has ended, if it is for this one to know."""
    with suppress(psutil.TimeoutExpired):
        return process.wait(REAP_SECONDS)
    return None


def describe_status(status: int | None) -> str:
    """Return an exit status as words; None stands for one that only another process knows."""
    if status is None:
        return "ended"
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def stop(process: psutil.Process, grace_seconds: float) -> None:
    """End a process: SIGTERM, and SIGKILL once the grace is over."""
    stop_all([process], grace_seconds)


def stop_all(running: Sequence[psutil.Process], grace_seconds: float) -> None:
    """End processes, all at the same time: SIGTERM, and SIGKILL once the grace is over."""
    for process in running:
        send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    for process in running:
        if not has_ended(process, deadline - time.monotonic()):
            kill(process)


def kill(process: psutil.Process) -> None:
    """End a process at once."""
    send(process, signal.SIGKILL)
    has_ended(process, KILL_GRACE_SECONDS)


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal; a process that has ended meanwhile is no error."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def has_ended(process: psutil.Process, timeout_seconds: float) -> bool:
    """Wait for a process to end, and tell whether it did."""
    # psutil's own wait would wait for a child of somebody who never asks about it.
    deadline = time.monotonic() + timeout_seconds
    while is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    exit_status(process)
    return True
