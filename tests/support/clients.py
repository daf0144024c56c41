"""Clients that write without end, and what they were told."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

from tests.support.worker import Worker, email_of, session, wait_until

CLIENTS = 8
#: Each client waits so long after an answer: it shall not take the time of those whom it tests.
PAUSE_SECONDS = 0.03

#: Clients of a `Writers`, and how long each tries: a write that nobody takes has failed then.
WRITERS = 6
PATIENCE_SECONDS = 10.0


@dataclass
class Answer:
    """What a client was told, when it asked, and how long it waited."""

    user_id: str
    at: float
    seconds: float
    status: int
    retry_after: str | None
    kind: str


@dataclass
class Clients:
    """Clients that register users one after another, until they are stopped."""

    worker: Worker
    #: How the ids begin.
    prefix: str = "user"
    answers: list[Answer] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write while this lasts."""
        threads = [threading.Thread(target=self._write, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def _write(self, client: int) -> None:
        with session() as http:
            number = 0
            while not self.stopped.wait(PAUSE_SECONDS):
                number += 1
                self._register(http, f"{self.prefix}-{client}-{number}")

    def _register(self, http: requests.Session, user_id: str) -> None:
        body = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
        began = time.monotonic()
        told = http.post(f"{self.worker.url}/users", json=body, timeout=20)
        seconds = time.monotonic() - began
        kind = told.json().get("type", "")
        after = told.headers.get("Retry-After")
        self.answers.append(Answer(user_id, began, seconds, told.status_code, after, kind))

    def have_answers(self, wanted: int) -> bool:
        """Return whether there are so many answers."""
        return len(self.answers) >= wanted

    def since(self, moment: float) -> list[Answer]:
        """Return the answers to what was asked since a moment."""
        return [answer for answer in self.answers if answer.at >= moment]

    def accepted_since(self, moment: float) -> list[Answer]:
        """Return those of them that say that a write is durable."""
        return [answer for answer in self.since(moment) if answer.status == 202]


def assert_all_found(worker: Worker, ids: list[str]) -> None:
    """Fail unless every user is found soon."""

    missing = list(ids)

    def are_found() -> bool:
        missing[:] = [i for i in missing if worker.get(f"/users/{i}").status_code != 200]
        return not missing

    wait_until(are_found, 60, "every acknowledged user is found")


class Writers:
    """Clients behind a balancer: any worker will do, and `Retry-After` is obeyed."""

    def __init__(
        self, workers: Sequence[Worker], patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._patience = patience_seconds
        self.accepted: list[str] = []
        self.failed: list[str] = []
        self.told: Counter[str] = Counter()
        self.longest = 0.0
        self._workers = workers
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _write(self, client: int) -> None:
        for number in itertools.count():
            if self._stopped.wait(PAUSE_SECONDS):
                return
            user_id = f"user-{client}-{number}"
            began = time.monotonic()
            taken = self._register(user_id, number, began + self._patience)
            (self.accepted if taken else self.failed).append(user_id)
            self.longest = max(self.longest, time.monotonic() - began)

    def _register(self, user_id: str, number: int, deadline: float) -> bool:
        body = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
        for attempt in itertools.count(number):
            worker = self._workers[attempt % len(self._workers)]
            try:
                with session() as http:
                    told = http.post(f"{worker.url}/users", json=body, timeout=self._patience)
            except requests.ConnectionError:
                self.told["no connection"] += 1
            else:
                self.told[str(told.status_code)] += 1
                if told.status_code == 202:
                    return True
                assert told.status_code == 503
                self._stopped.wait(float(told.headers["Retry-After"]))
            if time.monotonic() > deadline:
                return False
        raise AssertionError
