"""How long the worker's web side takes to say that it lives, while it applies at full speed."""

import threading
import time
from dataclasses import dataclass
from typing import Self

import requests

INTERVAL_SECONDS = 0.05
TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Health:
    """Latencies of ``GET /health/live`` in milliseconds, and how many were not answered."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    asked: int
    unanswered: int


class HealthProbe:
    """Asks ``/health/live`` twenty times a second, from the first answer on, in a thread."""

    def __init__(self, url: str) -> None:
        self._address = f"{url}/health/live"
        self._latencies: list[float] = []
        self._unanswered = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def health(self) -> Health | None:
        """Return what was measured so far; None if nothing was answered."""
        ordered = sorted(self._latencies)
        if not ordered:
            return None

        def percentile(share: float) -> float:
            return ordered[int((len(ordered) - 1) * share)]

        return Health(
            percentile(0.5), percentile(0.99), ordered[-1], len(ordered), self._unanswered
        )

    def _ask_on(self) -> None:
        with requests.Session() as session:
            while not self._ended.wait(INTERVAL_SECONDS):
                self._ask(session)

    def _ask(self, session: requests.Session) -> None:
        began = time.perf_counter()
        try:
            session.get(self._address, timeout=TIMEOUT_SECONDS)
        except requests.RequestException:
            # Before the first answer the worker is just starting.
            self._unanswered += bool(self._latencies)
        else:
            self._latencies.append((time.perf_counter() - began) * 1000)
