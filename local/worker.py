"""One worker: a process of the app, with a port, a folder and a log of its own.

All workers share a public socket, too, which their supervisor holds: docs/decisions/one-address.md.
"""

import sys
from collections.abc import Sequence
from socket import socket

import psutil

from local import processes
from local.errors import WorkerError
from local.folder import DataFolder
from local.places import start_folder
from local.probe import http_answers_ok
from local.settings import LocalSettings, environment

#: Beyond this a log is put aside when its worker starts; one older log is kept.
LOG_LIMIT_BYTES = 10 * 1024**2


class Worker:
    """The worker with a number, from 1; ``brokers`` is the Kafka that it uses."""

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        settings: LocalSettings,
        brokers: str,
        public: socket,
    ) -> None:
        folder = DataFolder(settings.data_dir)
        self.name = f"worker {number}"
        self.port = settings.internal_ports[number - 1]
        self.url = settings.url_of(settings.internal_host, self.port)
        self.log = folder.worker_log(number)
        self._record = folder.worker_record(number)
        self._public = public.fileno()
        self._command = [sys.executable, "-m", "local.handover", str(self._public), *command]
        self._process: psutil.Process | None = None
        self._environment = environment(brokers) | {
            "INTERNAL_PORT": str(self.port),
            "DATA_DIR": str(folder.worker(number)),
        }

    def launch(self) -> None:
        """Start the process, which is not ready yet; raises `WorkerError`."""
        try:
            self._put_long_log_aside()
            with self.log.open("ab") as output:
                self._process = processes.spawn(
                    self._command,
                    output,
                    self._record,
                    port=self.port,
                    cwd=start_folder(),
                    env=self._environment,
                    keep_open=[self._public],
                )
        except OSError as error:
            raise WorkerError(f"{self.name} cannot be started: {error.strerror}") from None

    def ending(self) -> str | None:
        """Return how the process ended, as words; None while it runs."""
        return processes.ending(self._process) if self._process else None

    def is_ready(self) -> bool:
        """Tell whether the worker serves everything that it should."""
        return http_answers_ok(f"{self.url}/health/ready")

    def last_words(self) -> str:
        """Return the last line that the worker printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"{self.name} left nothing in {self.log}"

    def _put_long_log_aside(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
