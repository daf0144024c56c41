"""Workers are restarted one after the other, as an upgrade does it: no client notices for long."""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import requests

from local.broker import Broker
from tests.clients import assert_all_found
from tests.worker import Registry, Worker, email_of, wait_until

log = logging.getLogger(__name__)

CLIENTS = 6
#: A write that nobody has taken after this long has failed.
PATIENCE_SECONDS = 10.0


class Writers:
    """Clients behind a balancer: any worker will do, and `Retry-After` is obeyed."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.accepted: list[str] = []
        self.failed: list[str] = []
        self.told: Counter[str] = Counter()
        self.longest = 0.0
        self._workers = workers
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(CLIENTS)]

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
            if self._stopped.wait(0.01):
                return
            user_id = f"user-{client}-{number}"
            began = time.monotonic()
            taken = self._register(user_id, number, began + PATIENCE_SECONDS)
            (self.accepted if taken else self.failed).append(user_id)
            self.longest = max(self.longest, time.monotonic() - began)

    def _register(self, user_id: str, number: int, deadline: float) -> bool:
        body = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
        for attempt in itertools.count(number):
            worker = self._workers[attempt % len(self._workers)]
            try:
                told = requests.post(f"{worker.url}/users", json=body, timeout=5)
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


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_no_write_fails_and_nothing_is_rebuilt(broker: Broker, tmp_path: Path) -> None:
    settings = {"STANDBY_REPLICAS": "1", "STOP_GRACE_SECONDS": "1"}
    registry = Registry(broker.address, tmp_path, settings=settings)
    workers = [registry.worker(number) for number in (1, 2, 3)]
    try:
        for worker in workers:
            worker.start()
        with Writers(workers) as writers:
            wait_until(lambda: len(writers.accepted) > 500, 60, "clients write")
            for worker in workers:
                assert worker.stop() == 0
                worker.start()
                wait_until(lambda: all(each.is_ready() for each in workers), 60, "all are ready")
        log.info(
            "answers %s, none failed of %d, the longest took %.1f s",
            dict(writers.told),
            len(writers.accepted),
            writers.longest,
        )
        assert writers.failed == []
        assert_all_found(workers[0], writers.accepted)
        assert not [w for w in workers if "rebuilt from its changelog" in w.log.read_text()]
    finally:
        for worker in workers:
            if worker.is_running:
                worker.stop()
