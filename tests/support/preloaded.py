"""Starts programs of this project from a process that has imported their modules already.

Importing takes a worker more than half of the CPU of its start, and the tests start a hundred and
fifty of them. A program begins as it does otherwise, at its ``__main__``, in a process, an
environment and a folder of its own: importing reads no setting and opens nothing
(tests/unit/test_imports.py). What `make run` starts is not started so.
"""

import atexit
import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.cli.main import COMMANDS

#: How long a program may take to begin.
BEGIN_SECONDS = 30.0
_POLL_SECONDS = 0.01


class Program:
    """A program that was started: what `subprocess.Popen` tells of one."""

    def __init__(self) -> None:
        self.pid = 0
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, None while the program runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once the program has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the program has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)


class _Starter:
    """The other end of the process that has everything imported."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.support.preloaded", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self._programs: list[Program] = []
        self._starting = threading.Lock()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        atexit.register(self._end)

    def start(self, wanted: Mapping[str, Any]) -> Program:
        """Start a program; return it once it has begun."""
        with self._starting:
            program = Program()
            self._programs.append(program)
            self._connection.sendall(json.dumps(wanted).encode() + b"\n")
        deadline = time.monotonic() + BEGIN_SECONDS
        while not program.pid:
            assert time.monotonic() < deadline, "the program does not begin"
            time.sleep(_POLL_SECONDS / 10)
        return program

    def _listen(self) -> None:
        with self._connection.makefile() as lines:
            for line in lines:
                number, member, value = json.loads(line)
                setattr(self._programs[number], member, value)

    def _end(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self._listening.join()
        self._connection.close()
        self._process.wait()


_only_one = threading.Lock()


@cache
def _started() -> _Starter:
    return _Starter()


def _starter() -> _Starter:
    # `cache` alone lets two threads make two.
    with _only_one:
        return _started()


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: Path,
    errors: Path | None = None,
    given: Path = Path(os.devnull),
) -> Program:
    """Start ``python -m`` with arguments, where the tests run; what it says is added to files.

    Errors go where the output goes, unless a file is named for them.
    """
    return _starter().start(
        {
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(Path.cwd()),
            "files": [str(given), str(output), str(errors or output)],
        }
    )


def run(
    environment: Mapping[str, str], *arguments: str, given: str = "", within_seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Return how a command of the app ended; it may be given lines to read."""
    with TemporaryDirectory() as folder:
        reads, output, errors = (Path(folder, name) for name in ("given", "output", "errors"))
        reads.write_text(given)
        program = start(["app", *arguments], environment, output, errors, reads)
        try:
            status = program.wait(within_seconds)
        except subprocess.TimeoutExpired:
            program.send_signal(signal.SIGKILL)
            raise
        said = output.read_text(), errors.read_text()
        return subprocess.CompletedProcess(arguments, status, *said)


# -- the process that has everything imported


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Start what is asked for until nobody asks any more.

    Returns None then, and in each new process what it is to run.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Ctrl-C is for the tests, which end what they have started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    numbers: dict[int, int] = {}
    count, received = 0, b""

    def tell(*told: object) -> None:
        connection.sendall(json.dumps(told).encode() + b"\n")

    while True:
        ready, _, _ = select.select([connection.fileno(), read], [], [])
        if read in ready:
            os.read(read, 4096)
            for pid, status in _ended():
                tell(numbers.pop(pid), "returncode", status)
        if connection.fileno() in ready:
            some = connection.recv(1 << 16)
            if not some:
                return None
            *lines, received = (received + some).split(b"\n")
            for line in lines:
                if (pid := os.fork()) == 0:
                    signal.set_wakeup_fd(-1)
                    for each in (read, write, connection.detach()):
                        os.close(each)
                    wanted: dict[str, Any] = json.loads(line)
                    return wanted
                numbers[pid] = count
                tell(count, "pid", pid)
                count += 1


def _ended() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _become(wanted: Mapping[str, Any]) -> None:
    """Be as a process that was started for this."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    os.environ.clear()
    os.environ.update(wanted["environment"])
    time.tzset()
    os.chdir(wanted["folder"])
    adding = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for number, (name, flags) in enumerate(
        zip(wanted["files"], (os.O_RDONLY, adding, adding), strict=True)
    ):
        opened = os.open(name, flags, 0o666)
        os.dup2(opened, number)
        os.close(opened)


def _import_all() -> None:
    gc.disable()
    for place in COMMANDS.values():
        import_module(place.module)
    # The pages of what is there stay shared.
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    _import_all()
    if (wanted := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(wanted)
        module, *arguments = wanted["arguments"]
        sys.argv = [module, *arguments]
        # A worker that starts anew takes what it was started with.
        sys.orig_argv = [sys.executable, "-m", *wanted["arguments"]]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
