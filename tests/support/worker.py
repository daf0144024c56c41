"""A real worker process on a real broker, as the tests start, ask, kill and start it again."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import requests

from app.config.settings import Settings
from app.web.api.lookups import STALE_HEADER
from local.machine import free_port
from local.probe import http_answers_ok
from tests.support import preloaded

READY_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 20
PARTITIONS = 4
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 0.15

#: The log files of all workers that this process has started.
LOGS: set[Path] = set()


def email_of(user_id: str) -> str:
    """Return an address that no other id has."""
    return f"{hashlib.sha256(user_id.encode()).hexdigest()[:32]}@example.com"


def is_fresh(answer: requests.Response) -> bool:
    """Return whether the owner of a user has found it, and no copy."""
    return answer.status_code == 200 and STALE_HEADER not in answer.headers


def session() -> requests.Session:
    """Return a session that looks up no proxies and no passwords: that takes longer than to ask."""
    made = requests.Session()
    made.trust_env = False
    return made


def wait_until(
    condition: Callable[[], Any],
    within_seconds: float,
    what: str,
    longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
) -> Any:
    """Return the first true answer of a condition; fail if it has none by the deadline."""
    deadline = time.monotonic() + within_seconds
    pause = SHORTEST_PAUSE_SECONDS
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(pause)
        # What takes longer is asked for less often: asking costs what the others need.
        pause = min(pause * 1.2, longest_pause_seconds)
    raise AssertionError(f"not within {within_seconds} s: {what}")


@dataclass
class Registry:
    """What workers of one registry share: the broker, and names that no other test has."""

    brokers: str
    folder: Path
    app_id: str = field(default_factory=lambda: f"registry-{uuid.uuid4().hex[:8]}")
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def registrations(self) -> str:
        """The name of the topic ``user-registrations``."""
        return f"{self.app_id}.user-registrations"

    @property
    def dead_letters(self) -> str:
        """The name of the dead-letter topic."""
        return f"{self.registrations}-dead-letter"

    @property
    def email_claims(self) -> str:
        """The name of the topic ``email-claims``."""
        return f"{self.app_id}.{self.app_id}-email-claims"

    @property
    def email_decisions(self) -> str:
        """The name of the topic ``email-decisions``."""
        return f"{self.app_id}.{self.app_id}-email-decisions"

    @property
    def outcomes(self) -> str:
        """The name of the topic ``registration-outcomes``."""
        return f"{self.app_id}.registration-outcomes"

    @property
    def sources(self) -> tuple[str, str, str]:
        """The topics that workers consume."""
        return self.registrations, self.email_claims, self.email_decisions

    @property
    def users_changelog(self) -> str:
        """The name of the changelog of ``users``."""
        return f"{self.app_id}.{self.app_id}-users-changelog"

    @property
    def emails_changelog(self) -> str:
        """The name of the changelog of ``emails``."""
        return f"{self.app_id}.{self.app_id}-emails-changelog"

    def worker(self, number: int = 1) -> "Worker":
        """Return a worker of this registry that is not started yet."""
        return Worker(self, number)


class Worker:
    """One worker process."""

    def __init__(self, registry: Registry, number: int) -> None:
        self.registry = registry
        self.port = free_port()
        scheme = "https" if "TLS_CERT_FILE" in registry.settings else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.folder = registry.folder / f"{registry.app_id}-worker-{number}"
        self.log = self.folder / "worker.log"
        self.http = session()
        self.http.verify = registry.settings.get("TLS_CA_FILE", True)
        self.command = [sys.executable, "-m", "app", "worker"]
        #: Where the code is that it runs; this version's, unless a test says otherwise.
        self.code: Path | None = None
        self._process: subprocess.Popen[bytes] | preloaded.Program | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The worker's settings."""
        return {
            **os.environ,
            "KAFKA_BROKERS": self.registry.brokers,
            "APP_ID": self.registry.app_id,
            "TOPIC_PREFIX": f"{self.registry.app_id}.",
            "DATA_DIR": str(self.folder),
            # Half as many as by default: each costs the broker 30 ms of CPU for each topic.
            "PARTITIONS": str(PARTITIONS),
            "WEB_PORT": str(self.port),
            # A busy machine makes brokers slow; what is told of them has tests of its own.
            "ACK_TIMEOUT_SECONDS": "5",
            # Nobody but the test sends requests.
            "STOP_GRACE_SECONDS": "0",
            **self.registry.settings,
        }

    @property
    def pid(self) -> int:
        """The process id; the process must have been started."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process was started, and not ended by this object."""
        return self._process is not None

    @property
    def has_ended(self) -> bool:
        """Whether the process is not there: it has ended by itself, or was ended."""
        return self._process is None or self._process.poll() is not None

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.launch()
        wait_until(self.is_ready, READY_TIMEOUT_SECONDS, f"worker is ready; its log: {self.log}")

    def launch(self) -> None:
        """Start the process."""
        LOGS.add(self.log)
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log.touch()
        if self._may_be_preloaded():
            self._process = preloaded.start(self.command[2:], self.environment, self.log)
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.code,
                stderr=log,
                stdout=log,
            )

    def _may_be_preloaded(self) -> bool:
        """Return whether it makes no difference: not to a bench, which measures whole processes."""
        is_test = "PYTEST_CURRENT_TEST" in os.environ
        is_ours = self.command[1:3] in (["-m", "app"], ["-m", "tests.support.faulty_worker"])
        # An environment with more than settings may be for Python itself, or for libraries.
        is_plain = all(name.lower() in Settings.model_fields for name in self.registry.settings)
        return is_test and is_ours and is_plain and self.code is None

    def is_ready(self) -> bool:
        """Return whether the worker says that it is ready; fail if it has ended."""
        assert self._process is not None
        assert self._process.poll() is None, f"worker ended with {self._process.returncode}"
        return http_answers_ok(f"{self.url}/health/ready")

    def stop(self) -> int:
        """Ask the process to end; return its exit status."""
        return self._end(signal.SIGTERM)

    def wait(self, within_seconds: float = READY_TIMEOUT_SECONDS) -> int:
        """Wait for the process to end by itself; return its exit status."""
        assert self._process is not None
        try:
            status = self._process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._process = None
        return status

    def kill(self) -> int:
        """End the process with no warning."""
        return self._end(signal.SIGKILL)

    def suspend(self) -> None:
        """Let the process do nothing, without ending it."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> int:
        self.http.close()
        if self._process is None:
            return 0
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # it may be suspended
        status = self._process.wait(STOP_TIMEOUT_SECONDS)
        self._process = None
        return status

    def post(self, path: str, **more: Any) -> requests.Response:
        """Return the answer to a POST."""
        return self.http.post(self.url + path, timeout=15, verify=self.http.verify, **more)

    def get(self, path: str, **more: Any) -> requests.Response:
        """Return the answer to a GET."""
        return self.http.get(self.url + path, timeout=15, verify=self.http.verify, **more)

    def wait_for_user(self, user_id: str, within_seconds: float = 10) -> dict[str, Any]:
        """Return a user as soon as a lookup finds it registered."""

        def found() -> Any:
            answer = self.get("/users", params={"id": user_id})
            user = answer.json() if answer.status_code == 200 else {}
            return user if user.get("status") == "registered" else None

        user: dict[str, Any] = wait_until(found, within_seconds, f"user {user_id!r} is registered")
        return user


#: Two workers of one registry.
Pair = tuple[Worker, Worker]
