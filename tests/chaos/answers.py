"""Lookups by HTTP: each path asked of any worker until one can tell."""

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import requests

from tests.support.worker import session, wait_until

#: All questions together must be answered within this time.
ANSWERS_WITHIN_SECONDS = 20.0
#: What leaves no doubt; all else means that nobody can tell now.
TELLING = (200, 404)
ASKED_AT_ONCE = 8
PAGE_USERS = 1_000

#: The status of an answer (0: none that tells), and of a 200 what it shows.
Answer = tuple[int, Mapping[str, Any]]


class Answers:
    """Asks workers, each path of one that chance decides."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls

    def to(self, paths: Iterable[str]) -> dict[str, Answer]:
        """Return the answers to GET requests, by path."""
        asked = list(paths)
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            shares = [asked[start::ASKED_AT_ONCE] for start in range(ASKED_AT_ONCE)]
            return {path: answer for share in pool.map(self._ask, shares) for path, answer in share}

    def everybody(self) -> Iterator[Mapping[str, Any]]:
        """Yield all users, page by page; no page may be missing."""
        more = ""
        while True:
            path = f"/users?limit={PAGE_USERS}{more}"
            status, said = self.to([path])[path]
            assert status == 200, f"{path} is not answered"
            yield from said["users"]
            if "next" not in said:
                return
            more = f"&cursor={said['next']}"

    def _ask(self, paths: list[str]) -> list[tuple[str, Answer]]:
        until = time.monotonic() + ANSWERS_WITHIN_SECONDS
        with session() as http:
            return [(path, self._ask_one(http, path, until)) for path in paths]

    def _ask_one(self, http: requests.Session, path: str, until: float) -> Answer:
        """Return what a worker answers, as soon as it can tell."""
        url = random.Random(path).choice(self._urls)
        last: Answer = (0, {})

        def told() -> bool:
            nonlocal last
            with suppress(requests.RequestException):
                answer = http.get(url + path, timeout=5)
                if answer.status_code in TELLING:
                    last = (answer.status_code, answer.json() if answer.ok else {})
            return bool(last[0]) or time.monotonic() >= until

        wait_until(told, ANSWERS_WITHIN_SECONDS + 10, f"an answer to {path}")
        return last


def agrees(found: Answer, wanted: Answer) -> bool:
    """Return whether an answer shows what is wanted; it may show more."""
    return found[0] == wanted[0] and wanted[1].items() <= found[1].items()
