"""A terminal to run commands in, so that tests can type what a user types, Ctrl-C included."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

CTRL_C = "\x03"
#: Makes standard input the terminal that controls the session, as a login does.
LOG_IN = (
    "import fcntl, os, sys, termios;"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """One command on a terminal of its own; as a context manager, gone after the block."""

    def __init__(self, *command: str, cwd: Path, env: Mapping[str, str]) -> None:
        self._master, user_end = os.openpty()
        self._shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOG_IN, *command],
            cwd=cwd,
            env=env,
            stdin=user_end,
            stdout=user_end,
            stderr=user_end,
            start_new_session=True,
        )
        os.close(user_end)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(timeout=1)
        os.close(self._master)

    @property
    def shown(self) -> str:
        """What the terminal has shown so far."""
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._master, text.encode())

    def wait_for(self, text: str, within_seconds: float) -> None:
        """Wait until the terminal shows a text; fail if the command ends or time runs out."""
        deadline = time.monotonic() + within_seconds
        while True:
            # Asked for first: what has ended has shown everything.
            has_ended = self.process.poll() is not None and not self._reader.is_alive()
            if text in self.shown:
                return
            assert not has_ended, self.shown
            assert time.monotonic() < deadline, f"no {text!r} in: {self.shown}"
            time.sleep(0.02)

    def _read(self) -> None:
        # The terminal ends with an error once nobody holds its other end.
        with suppress(OSError):
            while received := os.read(self._master, 4096):
                self._shown += received
