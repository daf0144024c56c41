"""Clients that write through any worker and read through any other, and believe what they are told.

Each user has one writer at a time, so what must be there in the end is known: what was acknowledged
last. A write of unknown outcome may be there, until a later one is acknowledged. What is told to be
open, or gets no answer at all, ends the life of its user: nobody knows when it is written.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import requests
from urllib3.exceptions import NewConnectionError

from tests.support.worker import email_of, session

WAIT_SECONDS = 3
#: Beyond what a worker may wait for the broker, for the outcome, and for another worker.
SLACK_SECONDS = 8.0
#: A request that is not answered at all is given up.
REQUEST_TIMEOUT_SECONDS = 30.0
PAUSE_SECONDS = 0.2
CHANGES = 5

ERASED = ""


@dataclass
class User:
    """What a client knows of a user: names that it may have; `ERASED` if it is erased."""

    id: str
    #: What was acknowledged last, and its position; None before anything was.
    acknowledged: str | None = None
    position: str = ""
    #: What may be stored as well.
    perhaps: set[str | None] = field(default_factory=set)
    is_over: bool = False

    @property
    def possible(self) -> set[str | None]:
        """The names that it may have in the end."""
        return {self.acknowledged, *self.perhaps}


@dataclass
class Ledger:
    """What clients were told, and what must not be; by all of them together."""

    users: list[User] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)
    #: No request may take longer; while a worker stands still, it may.
    most_seconds: float = 0.0
    standing_since: float | None = None
    stood_seconds: float = 0.0


class Client(threading.Thread):
    """One client, who is at work in the block of a with statement."""

    def __init__(self, number: int, urls: Sequence[str], ledger: Ledger, limit: float) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._turns = count(number)
        self._urls = urls
        self._ledger = ledger
        self._limit = limit
        self._ends = threading.Event()
        self._http = session()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ends.set()
        self.join()

    def run(self) -> None:
        """Let users live, one after the other."""
        try:
            while not self._ends.is_set():
                self._live(User(f"fault-{uuid.uuid4().hex[:12]}"))
        except Exception as error:
            self._ledger.wrong.append(f"a client failed: {type(error).__name__}: {error}")
            raise

    def _live(self, user: User) -> None:
        name = "version 0"
        body = {"id": user.id, "name": name, "email": email_of(user.id)}
        while user.acknowledged is None and not self._is_over(user):
            self._write(user, "POST", "/users", name, json=body)
        for version in range(1, CHANGES + 1):
            if self._is_over(user):
                break
            name = f"version {version}"
            self._write(user, "PATCH", f"/users/{user.id}", name, json={"name": name})
        if not self._is_over(user) and next(self._turns) % 4 == 0:
            self._write(user, "DELETE", f"/users/{user.id}", ERASED)
        user.is_over = True
        self._ledger.users.append(user)

    def _is_over(self, user: User) -> bool:
        return user.is_over or self._ends.is_set()

    def _write(self, user: User, method: str, path: str, name: str, **more: Any) -> None:
        turn = next(self._turns)
        headers = {"Prefer": f"wait={WAIT_SECONDS}"} if turn % 2 else {}
        answer = self._ask(user, name, turn, method, path, headers=headers, **more)
        if answer is not None:
            self._believe(user, name, answer)
            if answer.ok:
                self._read(user, name, turn + 1)
        time.sleep(PAUSE_SECONDS)

    def _believe(self, user: User, name: str, answer: requests.Response) -> None:
        told = answer.json()
        problem = told.get("type", "").rpartition(":")[2]
        self._ledger.told[problem or str(answer.status_code)] += 1
        match answer.status_code, problem:
            case ((200 | 201 | 202), _):
                shown = told.get("name", name if name else ERASED)
                if shown != name and "stale_seconds" not in told:
                    self._wrong(f"{user}: wrote {name!r}, and was shown {told}")
                user.acknowledged, user.perhaps = name, set()
                user.position = told["position"]
            case 503, "outcome-unknown":
                user.perhaps.add(name)
            case 503, "outcome-open":
                user.perhaps.add(name)
                user.is_over = True
            case 503, ("broker-unavailable" | "overloaded" | "stale-request"):
                pass  # it is not stored
            case 503, _ if "Prefer" in answer.request.headers:
                # It is acknowledged, and its row could not be looked up.
                user.perhaps.add(name)
                user.is_over = True
            case _:
                self._wrong(f"{user}: wrote {name!r}, and was told {answer.status_code} {told}")
                user.perhaps.add(name)
                user.is_over = True

    def _read(self, user: User, name: str, turn: int) -> None:
        """Read what was just written, from another worker."""
        path = f"/users/{user.id}?after={user.position}"
        answer = self._ask(None, name, turn, "GET", path)
        if answer is None or answer.status_code == 503:
            return
        shown = ERASED if answer.status_code == 404 else answer.json().get("name")
        if shown != name:
            self._wrong(f"{user}: reads {answer.status_code} {answer.text} after {name!r}")

    def _ask(
        self, user: User | None, name: str, turn: int, method: str, path: str, **more: Any
    ) -> requests.Response | None:
        url = self._urls[turn % len(self._urls)]
        began, stood = time.monotonic(), self._stood()
        try:
            answer = self._http.request(method, url + path, timeout=REQUEST_TIMEOUT_SECONDS, **more)
        except requests.ConnectionError as error:
            self._ledger.told["no answer"] += 1
            if user is not None and not _was_refused(error):
                user.perhaps.add(name)
                user.is_over = True
            return None
        except requests.Timeout:
            self._note_seconds(began, stood, f"{method} {path} has no answer")
            if user is not None:
                user.perhaps.add(name)
                user.is_over = True
            return None
        self._note_seconds(began, stood, f"{method} {path} is told {answer.status_code}")
        return answer

    def _note_seconds(self, began: float, stood: float, what: str) -> None:
        """Note how long a request took, but for the time in which a worker stood still."""
        seconds = time.monotonic() - began - (self._stood() - stood)
        self._ledger.most_seconds = max(self._ledger.most_seconds, seconds)
        if seconds > self._limit:
            self._wrong(f"{what} after {seconds:.1f} s")

    def _stood(self) -> float:
        """Return for how long a worker stood still until now, all told."""
        since = self._ledger.standing_since
        return self._ledger.stood_seconds + (0.0 if since is None else time.monotonic() - since)

    def _wrong(self, what: str) -> None:
        self._ledger.wrong.append(what)


def _was_refused(error: requests.ConnectionError) -> bool:
    """Return whether nobody listened: nothing was sent then."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError)
