"""The broker's log files, and what they say about why it ended."""

import re
from pathlib import Path
from typing import IO

#: A Java exception with its message, as a stack trace begins or goes on.
EXCEPTION = re.compile(
    r"^(?:Caused by: |Exception in .*? )?[\w.$]+(?:Exception|Error): (?P<why>.+)"
)
ERROR_LINE = re.compile(r"^\S+ (?:ERROR|FATAL) (?P<why>.+)")
NOISE = re.compile(r"^\s|^WARNING: ")


class BrokerLog:
    """Two files in the data folder: what Kafka logs, and what the JVM itself prints."""

    def __init__(self, data_dir: Path) -> None:
        self.file = data_dir / "server.log"
        self._console = data_dir / "console.log"
        self._start = 0

    def begin(self) -> IO[bytes]:
        """Note where the log stands, and open a new file for what the JVM prints."""
        self._start = len(read(self.file))
        return self._console.open("wb")

    def reason(self) -> str:
        """Return the line of this run's logs that says best why the broker ended."""
        logged = read(self.file)
        # Shorter than before: the file was rolled over meanwhile.
        this_run = logged[self._start :] if len(logged) >= self._start else logged
        why = reason_in((this_run + read(self._console)).decode(errors="replace"))
        return why or f"it left no reason in {self.file}"


def reason_in(text: str) -> str:
    """Return the line of a Java program's output that says best why it failed, if any does."""
    lines = [line for line in text.splitlines() if line.strip() and not NOISE.match(line)]
    for pattern in (EXCEPTION, ERROR_LINE):
        if found := [match["why"] for line in lines if (match := pattern.match(line))]:
            return found[-1]
    return lines[-1] if lines else ""


def read(file: Path) -> bytes:
    """Return what a log file holds, or nothing if there is none."""
    return file.read_bytes() if file.exists() else b""
