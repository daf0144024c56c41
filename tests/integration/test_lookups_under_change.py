"""Lookups of known users go on while workers die, join and are restarted: nobody is denied.

The short form is in `tests/integration/test_routing.py`; this one takes five minutes (`make soak`).
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import requests

from app.web.api.lookups import STALE_HEADER
from tests.support import kafka
from tests.support.worker import Registry, Worker, email_of, wait_until

log = logging.getLogger(__name__)

USERS = 20_000
THREADS = 4
#: Pauses between the events, so that all takes five minutes.
CALM_SECONDS = 45
MAX_UNAVAILABLE_SHARE = 0.02


@dataclass
class Tally:
    """Answers by what they were, and what was wrong with some."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    #: By event: answers that were refused while it was under way.
    refused: Counter[str] = field(default_factory=Counter)
    event: str = "calm"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, answer: requests.Response, user_id: str) -> None:
        """Count an answer."""
        with self._lock:
            if answer.status_code == 200 and answer.json()["id"] == user_id:
                self.answers["stale" if STALE_HEADER in answer.headers else "fresh"] += 1
            elif answer.status_code == 503 and answer.headers.get("Retry-After"):
                self.answers["refused"] += 1
                self.refused[self.event] += 1
            else:
                self.wrong.append(f"{self.event}: {answer.status_code} {answer.text[:200]}")


@contextmanager
def lookups(workers: Sequence[Worker], ids: Sequence[str], tally: Tally) -> Iterator[None]:
    """Look users up at random at random workers, those that run, by id and by email."""
    stop = threading.Event()

    def ask(seed: int) -> None:
        dice, http = random.Random(seed), requests.Session()
        while not stop.is_set():
            worker, user_id = dice.choice(workers), dice.choice(ids)
            path = f"/users/{user_id}"
            if dice.random() < 0.5:
                path = f"/users?email={email_of(user_id)}"
            try:
                tally.count(http.get(worker.url + path, timeout=10), user_id)
            except requests.ConnectionError:
                tally.answers["nobody there"] += 1
                stop.wait(0.05)

    asking = [threading.Thread(target=ask, args=[seed]) for seed in range(THREADS)]
    for thread in asking:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in asking:
            thread.join()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_nobody_is_denied_while_workers_come_and_go(registry: Registry) -> None:
    workers = [registry.worker(number) for number in range(1, 5)]
    ids = [f"user-{number}" for number in range(USERS)]
    tally = Tally()

    def all_ready(of: Sequence[Worker]) -> bool:
        return all(worker.is_ready() for worker in of)

    def event(name: str) -> None:
        time.sleep(CALM_SECONDS)
        tally.event = name

    try:
        for worker in workers[:3]:
            worker.start()
        rows = [
            b'{"id":"%b","name":"Ada","email":"%b"}' % (i.encode(), email_of(i).encode())
            for i in ids
        ]
        records = [{"key": i.encode(), "value": row} for i, row in zip(ids, rows, strict=True)]
        kafka.produce(
            registry.brokers, registry.registrations, records, partitioner="murmur2_random"
        )
        for user_id in ids[-200:]:
            workers[0].wait_for_user(user_id, 60)
        wait_until(lambda: all_ready(workers[:3]), 30, "all are ready")
        with lookups(workers, ids, tally):
            event("kill -9")
            workers[1].kill()
            event("start again")
            workers[1].launch()
            event("join")
            workers[3].launch()
            event("rolling restart")
            for worker in workers[:3]:
                worker.stop()
                worker.start()
                wait_until(lambda: all_ready(workers), 60, "all are ready again")
            event("calm again")
            time.sleep(CALM_SECONDS)
    finally:
        for worker in workers:
            if worker.is_running:
                worker.stop()
    log.info("answers %s; refused during %s", dict(tally.answers), dict(tally.refused))
    assert not tally.wrong, tally.wrong[:20]
    told = tally.answers["fresh"] + tally.answers["stale"] + tally.answers["refused"]
    assert told > 10_000
    assert tally.answers["refused"] < MAX_UNAVAILABLE_SHARE * told, tally.refused
