"""The workers and the broker under test, and what can be done to them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import requests
from confluent_kafka.admin import AdminClient

from local.broker import Broker
from local.broker import Cluster as BrokerCluster
from local.machine import HOST, free_port, is_free
from tests.chaos.schedule import ASKED_SECONDS, SESSION_SECONDS, TAKEN_OVER_SECONDS
from tests.support import kafka
from tests.support.java import QUICK
from tests.support.worker import READY_TIMEOUT_SECONDS, Registry, Worker, wait_until

#: As many as a registry has by default.
PARTITIONS = "8"
#: A worker that ended by itself is started again after this long, as a supervisor does.
START_AGAIN_AFTER_SECONDS = 1.0
ASK_EVERY_SECONDS = 0.1
#: How soon the group must notice who has come or gone: a session later, on a busy machine.
REBALANCES_WITHIN_SECONDS = 120.0
#: What a worker says that is started and reaches no broker.
NO_BROKER = ("Unable to bootstrap from", "KAFKA_BROKERS: no usable answer from")
#: Behind the deadline, conditions may still be looked at for this long.
LAST_CHANCE_SECONDS = 0.5
#: Workers that end more often than this are no registry.
MOST_ENDINGS = 30


@dataclass(frozen=True, slots=True)
class Ending:
    """A worker that ended although nobody asked it to."""

    worker: int
    status: int
    last_line: str
    #: Whether it was started while there was no broker: it says so, and is started again.
    excused: bool = False


class Member(Worker):
    """A worker under test: its log outlives its folder, and it may be suspended."""

    def __init__(self, registry: Registry, number: int) -> None:
        super().__init__(registry, number)
        self.number = number
        self.log = registry.folder / "logs" / f"worker-{number}.log"
        self.wanted = False
        self.launched_at = 0.0
        self.ended_at: float | None = None
        self._logged_before = 0
        self._asked_at = 0.0
        self._served = False

    @property
    def exit_status(self) -> int | None:
        """The exit status of a process that has ended; None while it runs or if there is none."""
        return self._process.poll() if self._process else None

    def launch(self) -> None:
        """Start the process."""
        self._logged_before = self.log.stat().st_size if self.log.exists() else 0
        super().launch()
        self.launched_at = time.monotonic()
        self.wanted, self.ended_at, self._served = True, None, False

    def serves(self) -> bool:
        """Return whether the worker runs and says that it is ready; it is not asked all the time.

        The clients share this process: asking without a pause would slow them down.
        """
        if self.exit_status is not None or not self.wanted:
            return False
        if time.monotonic() - self._asked_at >= ASK_EVERY_SECONDS:
            self._asked_at = time.monotonic()
            self._served = self._says_ready()
        return self._served

    def _says_ready(self) -> bool:
        try:
            return self.is_ready()
        except (AssertionError, requests.RequestException):
            return False

    def end(self, number: signal.Signals) -> int:
        """Send the signal, and return the exit status; who does not end in time is killed."""
        self.wanted = False
        try:
            return self._end(number)
        except subprocess.TimeoutExpired:
            return self._end(signal.SIGKILL)

    def has_logged(self, what: str) -> bool:
        """Return whether the process has logged something."""
        return what.encode() in self.log.read_bytes()[self._logged_before :]

    def last_line(self) -> str:
        """Return the last line of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1][:300] if lines else ""


class Crew:
    """The workers of one registry; as a context manager they run in the block."""

    def __init__(self, registry: Registry, workers: int, deadline: float) -> None:
        self._deadline = deadline
        self.registry = registry
        self.members = {n: Member(registry, n) for n in range(1, workers + 1)}
        self._newcomer = workers + 1
        self.endings: list[Ending] = []
        self.stop_statuses: list[int] = []

    def __enter__(self) -> Self:
        try:
            self.start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for member in self.members.values():
            member.end(signal.SIGKILL)

    @property
    def urls(self) -> list[str]:
        """Where the workers are to be found, whether they run or not."""
        return [member.url for member in self.members.values()]

    def start_all(self) -> None:
        """Start the workers that are down; wait until all are ready."""
        for member in self.members.values():
            if not member.wanted:
                member.launch()
        self.wait(
            lambda: all(member.serves() for member in self.members.values()),
            READY_TIMEOUT_SECONDS,
            f"all workers are ready; their logs: {self.registry.folder / 'logs'}",
        )

    def wait(self, condition: Callable[[], object], within_seconds: float, what: str) -> None:
        """Wait for a condition, starting workers again that end meanwhile; fail if it is late.

        Nothing waits beyond the deadline of the whole run.
        """

        def holds() -> object:
            self.tend()
            return condition()

        left = max(self._deadline - time.monotonic(), LAST_CHANCE_SECONDS)
        wait_until(holds, min(within_seconds, left), what)

    def tend(self) -> None:
        """Start workers again that ended by themselves, as a supervisor does, and note it."""
        for member in self.members.values():
            status = member.exit_status
            if not member.wanted or status is None:
                continue
            if member.ended_at is None:
                member.ended_at = time.monotonic()
                ending = Ending(member.number, status, member.last_line(), self._excuses(member))
                self.endings.append(ending)
                assert len(self.endings) <= MOST_ENDINGS, (
                    f"workers end again and again; logs: {member.log.parent}"
                )
            elif time.monotonic() - member.ended_at >= START_AGAIN_AFTER_SECONDS:
                member.launch()

    def _excuses(self, _ended: Member) -> bool:
        """Return whether a worker had a reason to end."""
        return False

    def kill(self, number: int) -> None:
        """End a worker with no warning."""
        self.members[number].end(signal.SIGKILL)

    def stop(self, number: int) -> None:
        """Ask a worker to end, and wait until it has; killed in the end, its status says so."""
        self.stop_statuses.append(self.members[number].end(signal.SIGTERM))

    def start(self, number: int) -> None:
        """Start a worker, without waiting for it."""
        self.members[number].launch()

    def restart(self, number: int) -> None:
        """Ask a worker to end, and start it again as soon as it has."""
        self.stop(number)
        self.start(number)

    def rebalance(self) -> None:
        """Let a new worker join the group or, if one has, leave it; return while that goes on.

        Who has left is missed after a session.
        """
        number = self._newcomer
        if number in self.members:
            # Else it may not be in the group yet, and be missed by nobody.
            self.wait(
                lambda: self.is_ready(number), READY_TIMEOUT_SECONDS, "the new worker is ready"
            )
            self.stop(number)
            del self.members[number]
        else:
            self.members[number] = Member(self.registry, number)
            self.start(number)
        admin = AdminClient({"bootstrap.servers": self.registry.brokers})
        rebalances = partial(kafka.is_rebalancing, admin, self.registry.app_id)
        self.wait(rebalances, REBALANCES_WITHIN_SECONDS, "the group rebalances")

    @property
    def is_up(self) -> bool:
        """Whether a worker at least is meant to run."""
        return any(member.wanted for member in self.members.values())

    def is_ready(self, number: int) -> bool:
        """Return whether a worker is ready."""
        return self.members[number].serves()

    def suspend(
        self, number: int, settles: Callable[[float], bool], ask: Callable[[str], None]
    ) -> None:
        """Let a worker stand still until others have its partitions, then go on as if nothing was.

        It still believes that it owns what it did: a zombie. ``settles`` tells whether writes are
        settled in all partitions since a moment. What it is asked then, it finds when it is woken.
        """
        member = self.members[number]
        pid = member.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            self._let_go_by(SESSION_SECONDS)
            since = time.monotonic()
            last = since + TAKEN_OVER_SECONDS
            self.wait(
                lambda: settles(since) or time.monotonic() > last,
                TAKEN_OVER_SECONDS + 5,
                "others take over",
            )
            ask(member.url)
            self._let_go_by(ASKED_SECONDS)
        finally:
            os.kill(pid, signal.SIGCONT)

    def _let_go_by(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= until, seconds + 5, "time goes by")

    def stop_all(self) -> None:
        """Ask all workers to end, all at the same time."""
        with ThreadPoolExecutor(len(self.members)) as pool:
            list(pool.map(self.stop, self.members))

    def delete_stores(self) -> None:
        """Delete what the workers keep on disk; none may run."""
        for member in self.members.values():
            shutil.rmtree(member.folder)

    def verify(self, timeout_seconds: float) -> tuple[int, str]:
        """Run the command ``verify``; return its exit status and what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "app", "verify"],
            env=self.members[1].environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        return done.returncode, done.stdout


class Cluster(Crew):
    """Workers, and brokers of their own."""

    def __init__(
        self,
        folder: Path,
        workers: int,
        settings: Mapping[str, str],
        deadline: float,
        brokers: int = 1,
    ) -> None:
        first = next(p for p in iter(free_port, 0) if all(map(is_free, range(p, p + brokers))))
        self._kafka: Broker | BrokerCluster = (
            Broker(folder / "broker", port=first, java_options=QUICK)
            if brokers == 1
            else BrokerCluster(folder / "brokers", first, brokers, java_options=QUICK)
        )
        #: How often brokers were killed.
        self._kills = 0
        #: When the last one was back.
        self._back_at = 0.0
        address = ",".join(f"{HOST}:{port}" for port in range(first, first + brokers))
        given = {"PARTITIONS": PARTITIONS, **settings}
        super().__init__(Registry(address, folder, settings=given), workers, deadline)

    def __enter__(self) -> Self:
        try:
            self._kafka.start()
        except BaseException:
            self.__exit__()
            raise
        return super().__enter__()

    def __exit__(self, *_exc: object) -> None:
        super().__exit__()
        for broker in self._brokers:
            broker.kill()
        self._kafka.stop()

    @property
    def _brokers(self) -> Sequence[Broker]:
        return [self._kafka] if isinstance(self._kafka, Broker) else self._kafka.nodes

    def restart_broker(self) -> None:
        """End a broker with no warning, each in its turn, and start it again."""
        # A second one that lacks something would be a majority.
        copies = min(len(self._brokers), 3)
        self.wait(lambda: kafka.in_sync(self.registry.brokers, copies), 60, "all copies are there")
        broker = self._brokers[self._kills % len(self._brokers)]
        self._kills += 1
        broker.kill()
        broker.start()
        self._back_at = time.monotonic()

    def _excuses(self, ended: Member) -> bool:
        was_away = ended.launched_at < self._back_at
        return was_away and any(map(ended.has_logged, NO_BROKER))
