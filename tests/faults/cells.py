"""Runs cells: one fault in one of two workers of a registry, while clients write and read."""

import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import requests
from confluent_kafka import Producer

from app.domain.keys import partition_of
from tests.faults.clients import ERASED, SLACK_SECONDS, WAIT_SECONDS, Client, Ledger, User
from tests.faults.injector import DELAY_SECONDS
from tests.faults.steps import Kind, Scene, Step
from tests.support import kafka, preloaded
from tests.support.faulty_worker import ORDERS
from tests.support.worker import Registry, Worker, email_of, wait_until

PARTITIONS = 4
CLIENTS = 2
#: The shortest that Kafka allows.
SESSION_SECONDS = 6
ACK_SECONDS = 2
#: A worker may be given up by the group, and come back, on a busy machine.
SETTLED_WITHIN_SECONDS = 180.0
FIRED_WITHIN_SECONDS = 120.0
#: How long a worker has to end that is asked to, before it would be killed (docs/operations.md).
ENDS_WITHIN_SECONDS = 30.0
#: No request takes longer: its wait, twice the time for an acknowledgement, and a delayed call.
LIMIT_SECONDS = WAIT_SECONDS + 2 * ACK_SECONDS + DELAY_SECONDS + SLACK_SECONDS

SETTINGS = {
    "PARTITIONS": str(PARTITIONS),
    "SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
    "STANDBY_REPLICAS": "1",
    "ACK_TIMEOUT_SECONDS": str(ACK_SECONDS),
    "MAX_WAIT_SECONDS": "4",
    "LOG_FORMAT": "json",
}

#: What a batch that is given up at once is for.
GIVE_UP = "the broker does not know the sequence"
#: What lets a worker start its producer anew, and open its partitions again.
FAIL_CYCLE = "the transaction is ended"


class Cells:
    """Two workers of one registry, and clients at both; one of the workers is faulty."""

    def __init__(self, registry: Registry) -> None:
        self.registry = replace(registry, settings={**registry.settings, **SETTINGS})
        self.faulty, self.sound = self.registry.worker(1), self.registry.worker(2)
        self.faulty.command = [sys.executable, "-m", "tests.support.faulty_worker"]
        self.ledger = Ledger()
        self._checked = 0
        self._probes = _probes()
        #: Transactions that nobody ends.
        self._left_open: list[Producer] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run workers and clients, and check all users at the end."""
        urls = self.faulty.url, self.sound.url
        with ExitStack() as held:
            # One after the other: the first one makes the topics.
            for worker in (self.sound, self.faulty):
                held.callback(worker.stop)
                worker.launch()
                wait_until(worker.is_ready, SETTLED_WITHIN_SECONDS, f"ready: {worker.log}")
            for user_id in self._probes:
                body = {"id": user_id, "name": "probe", "email": email_of(user_id)}
                wait_until(partial(self._register, body), 30, "probes are there")
            with ExitStack() as clients:
                for number in range(CLIENTS):
                    clients.enter_context(Client(number, urls, self.ledger, LIMIT_SECONDS))
                yield
            self.check()

    def _register(self, user: Mapping[str, str]) -> bool:
        return self.sound.post("/users", json=user).ok

    # -- a cell

    def run(self, step: Step, kind: Kind) -> str:
        """Try one fault; return what happened. Fails if a promise is broken."""
        mark = self._log_size()
        self._begin(step, kind, mark)
        faults = [f'"fault":"{step.name}: {each}"' for each in kind.faults]
        wait_until(
            lambda: self._log(mark).count(faults[-1]) >= faults.count(faults[-1]),
            FIRED_WITHIN_SECONDS,
            f"the worker comes there: {step.name}",
        )
        began = time.monotonic()
        how = self._outlive(step, kind, mark)
        self._settle()
        seconds = time.monotonic() - began
        if step.scene is Scene.OTHER_DIES:
            self._revive_other()
        self.check()
        events = _events(self._log(mark)) or ["goes on"]
        return "; ".join([*([how] if how else events), f"{seconds:.1f} s"])

    def _begin(self, step: Step, kind: Kind, mark: int) -> None:
        numbers = step.number, 1
        cells = [(step.name, *each) for each in zip(kind.faults, numbers, strict=False)]
        match step.scene:
            case Scene.WRITES:
                self._order(*cells)
            case Scene.STRAYS:
                self._order(*cells)
                self._stray()
            case Scene.GIVEN_UP:
                self._order((GIVE_UP, Kind.RAISE, 1), *cells)
            case Scene.OPENED_AGAIN:
                self._order((FAIL_CYCLE, Kind.LOSE, 1), *cells)
            case Scene.OPENED_AFTER_DEATH:
                self._leave_open()
                self._order((FAIL_CYCLE, Kind.LOSE, 1), *cells)
            case Scene.OTHER_DIES:
                self._order(*cells)
                self.sound.kill()
            case Scene.STOP:
                self._order(*cells)
                wait_until(lambda: '"ordered"' in self._log(mark), 10, "it has its orders")
                os.kill(self.faulty.pid, signal.SIGTERM)
            case Scene.LOOK | Scene.START | Scene.START_WITHOUT_STORES:
                self.faulty.kill()
                if step.scene is Scene.START_WITHOUT_STORES:
                    for path in self.faulty.folder.rglob("*-[0-9]"):
                        shutil.rmtree(path)
                self._launch(*(str(word) for cell in cells for word in cell))

    def _launch(self, *words: str) -> None:
        self.faulty.command = [sys.executable, "-m", "tests.support.faulty_worker", *words]
        self.faulty.launch()

    def _order(self, *cells: Sequence[object]) -> None:
        lines = "".join("|".join(map(str, cell)) + "\n" for cell in cells)
        pipe = wait_until(self._open_orders, 10, "the worker takes orders")
        with os.fdopen(pipe, "w") as orders:
            orders.write(lines)

    def _open_orders(self) -> int | None:
        with suppress(OSError):  # nobody reads it yet
            return os.open(self.faulty.folder / ORDERS, os.O_WRONLY | os.O_NONBLOCK)
        return None

    def _outlive(self, step: Step, kind: Kind, mark: int) -> str:
        """Bring the worker through what the fault does to it; return what that was."""
        how = ""
        if kind.faults[-1] in (Kind.KILL_BEFORE, Kind.KILL_AFTER):
            assert self.faulty.wait(SETTLED_WITHIN_SECONDS) == -signal.SIGKILL
            self._launch()
            return "started again"
        if kind is Kind.STAND:
            self.ledger.standing_since = time.monotonic()
            if step.scene is Scene.OTHER_DIES:
                self._revive_other()
            wait_until(self._other_answers, SETTLED_WITHIN_SECONDS, "the other takes over")
            self.faulty.resume()
            self.ledger.stood_seconds += time.monotonic() - self.ledger.standing_since
            self.ledger.standing_since = None
            how = "the other takes over"
        if kind is Kind.DELAY:
            over = f'"over":"{step.name}: {kind}"'
            wait_until(lambda: over in self._log(mark), FIRED_WITHIN_SECONDS, "the delay is over")
        if kind in step.ends:
            assert self.faulty.wait(SETTLED_WITHIN_SECONDS) != 0
            assert step.ends[kind] in self._log(mark)
            self._launch()
            how = "ends with one line, started again"
        if step.scene is Scene.STOP:
            assert self.faulty.wait(ENDS_WITHIN_SECONDS) == 0
            self._launch()
            how = "; ".join([*([how] if how else []), "ends, started again"])
        return how

    def _other_answers(self) -> bool:
        with suppress(requests.RequestException):
            for user_id in self._probes:
                answer = self.sound.get(f"/users?id={user_id}")
                if answer.status_code != 200 or "Registry-Stale-Seconds" in answer.headers:
                    return False
            return True
        return False

    def _settle(self) -> None:
        """Wait until a write to each partition through each worker is settled.

        And until both have their half: the next fault must not meet a rebalance of this one.
        """
        workers = self.faulty, self.sound
        if not any(worker.has_ended for worker in workers):
            wait_until(
                lambda: all(map(_has_half, workers)), SETTLED_WITHIN_SECONDS, "each has its half"
            )
        for worker in workers:
            if not worker.is_running:
                continue
            for user_id in self._probes:
                wait_until(
                    partial(self._probe, worker, user_id),
                    SETTLED_WITHIN_SECONDS,
                    "a write to each partition is settled, by each worker",
                )

    def _probe(self, worker: Worker, user_id: str) -> bool:
        assert not worker.has_ended, f"it ended by itself: {worker.log.read_text()[-2000:]}"
        name = uuid.uuid4().hex
        with suppress(requests.RequestException):
            answer = worker.http.patch(
                f"{worker.url}/users/{user_id}",
                json={"name": name},
                headers={"Prefer": f"wait={WAIT_SECONDS}"},
                timeout=LIMIT_SECONDS,
            )
            return answer.status_code == 200 and answer.json()["name"] == name
        return False

    # -- scenes

    def _stray(self) -> None:
        ids = [f"stray-{uuid.uuid4().hex[:12]}" for _ in range(2 * PARTITIONS)]
        records: list[Mapping[str, Any]] = [
            {
                "value": orjson.dumps({"id": i, "name": "N", "email": email_of(i)}),
                "partition": (partition_of(i.encode(), PARTITIONS) + 1) % PARTITIONS,
            }
            for i in ids
        ]
        kafka.produce(self.registry.brokers, self.registry.registrations, records)
        self.ledger.users += [User(i, "N", is_over=True) for i in ids]

    def _leave_open(self) -> None:
        """Leave a transaction open in all changelogs, as a worker that is gone would."""
        ghost = Producer(
            {
                "bootstrap.servers": self.registry.brokers,
                "transactional.id": f"{self.registry.app_id}-ghost-{uuid.uuid4().hex[:6]}",
                "transaction.timeout.ms": 20_000,
                "log_level": 0,
            }
        )
        ghost.init_transactions(10)
        ghost.begin_transaction()
        for topic in (self.registry.users_changelog, self.registry.emails_changelog):
            for number in range(PARTITIONS):
                ghost.produce(topic, key=b"ghost", partition=number)
        assert ghost.flush(10) == 0
        self._left_open.append(ghost)

    def _revive_other(self) -> None:
        if self.sound.has_ended:
            self.sound.launch()
            wait_until(self.sound.is_ready, SETTLED_WITHIN_SECONDS, "the other one is back")

    # -- what must hold

    def check(self) -> None:
        """Fail if anybody was told what is not so; each user is looked up once its life is over."""
        wrong = self.ledger.wrong
        assert not wrong, "\n".join(wrong[:5])
        over = self.ledger.users[self._checked :]
        for user in over:
            asked = partial(_shown, self.sound, user)
            shown = wait_until(asked, SETTLED_WITHIN_SECONDS, "it is found")
            assert shown[0] in user.possible, f"{user} is {shown[0]!r}"
        self._checked += len(over)
        assert not self.sound.has_ended, self.sound.log.read_text()[-2000:]
        for worker in (self.faulty, self.sound):
            for never in ("unknown_request", "unexpected error"):
                assert never not in worker.log.read_text(), f"{never}: {worker.log}"

    def verify(self) -> None:
        """Fail unless ``verify`` finds no difference between topics, tables and stores."""
        done = preloaded.run(self.sound.environment, "verify")
        assert done.returncode == 0, done.stdout + done.stderr

    # -- the faulty worker's log

    def _log_size(self) -> int:
        return self.faulty.log.stat().st_size

    def _log(self, mark: int) -> str:
        with self.faulty.log.open("rb") as log:
            log.seek(mark)
            return log.read().decode(errors="replace")


def _shown(worker: Worker, user: User) -> tuple[str | None] | None:
    """Return the name that the owner shows of a user, in a tuple; None if nobody can tell now."""
    after = f"&after={user.position}" if user.position else ""
    answer = worker.get(f"/users?id={user.id}{after}")
    if answer.status_code == 404:
        # Never registered, or erased.
        return (None if user.acknowledged is None else ERASED,)
    if answer.status_code != 200 or "Registry-Stale-Seconds" in answer.headers:
        return None
    return (answer.json()["name"],)


def _has_half(worker: Worker) -> bool:
    """Return whether a worker owns half of the partitions, of both tables, by its last word."""
    ready = [line for line in worker.log.read_text().splitlines() if '"worker ready"' in line]
    return bool(ready) and int(orjson.loads(ready[-1])["partitions"]) == PARTITIONS


def _probes() -> list[str]:
    """Return an id for each partition."""
    found: dict[int, str] = {}
    while len(found) < PARTITIONS:
        user_id = f"probe-{uuid.uuid4().hex[:8]}"
        found.setdefault(partition_of(user_id.encode(), PARTITIONS), user_id)
    return list(found.values())


def _events(log: str) -> list[str]:
    """Return what the worker's log warns of, each once."""
    events: dict[str, None] = {}
    for line in log.splitlines():
        with suppress(orjson.JSONDecodeError):
            told = orjson.loads(line)
            if told.get("level") in ("warning", "error", "critical") and "event" in told:
                event, logger = str(told["event"]), str(told.get("logger"))
                if logger.startswith(("app.", "tables.")) and not event.startswith("["):
                    events.setdefault(event, None)
    return list(events)
