"""What `make run` does: broker, topics, workers; watched until Ctrl-C, taken down in order."""

import subprocess
import sys
import time
from dataclasses import dataclass
from socket import socket

from local.brokers import Brokers, brokers_for
from local.console import say
from local.errors import CommandError, WorkerError
from local.folder import DataFolder
from local.keeper import Keeper, Service
from local.machine import listen, require_port, require_room
from local.places import start_folder
from local.settings import LocalSettings, environment
from local.signals import ignore_signals, signals_interrupt
from local.takeover import clear_up, held, stop_workers
from local.terminal import own_foreground
from local.worker import Worker

READY_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.2
#: Exit status of a worker whose settings are wrong: another try would end alike.
WRONG_SETTINGS = "exit status 2"


@dataclass(frozen=True)
class Commands:
    """The commands that a run is made of; tests put stand-ins in their place."""

    topics: tuple[str, ...] = (sys.executable, "-m", "app", "topics", "apply")
    worker: tuple[str, ...] = (sys.executable, "-m", "app", "worker")


class Supervisor:
    """One run, from the checks before it to the last process's end."""

    def __init__(
        self,
        settings: LocalSettings,
        commands: Commands | None = None,
        brokers: Brokers | None = None,
    ) -> None:
        self._settings = settings
        self._commands = commands or Commands()
        self._brokers = brokers or brokers_for(settings)
        self._folder = DataFolder(settings.data_dir)
        #: Where all workers listen. It stays open while they are restarted.
        self._public: socket
        self._workers: list[Worker] = []
        self._keepers: list[Keeper] = []

    def run(self) -> None:
        """Run until a signal asks to end; raises `LocalError` if the start fails."""
        self._folder.claim()
        with signals_interrupt(), own_foreground(), held(self._folder, self._settings):
            try:
                self._start()
                self._announce()
                self._watch()
            except KeyboardInterrupt:
                say("\nStopping ...")
            finally:
                self._stop()

    def _start(self) -> None:
        clear_up(self._folder, self._settings)
        self._check()
        self._brokers.launch()
        self._create_topics()
        say(f"Starting {self._settings.workers} worker(s) ...")
        self._start_workers()

    def _check(self) -> None:
        require_room(self._folder.path)
        self._public = listen(self._settings.web_host, self._settings.web_port, "WEB_PORT")
        for port in self._settings.internal_ports:
            require_port(port, "WEB_PORT")

    def _create_topics(self) -> None:
        done = subprocess.run(
            self._commands.topics,
            cwd=start_folder(),
            env=environment(self._brokers.address),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["the topics could not be created"]
            raise CommandError(lines[-1], done.returncode)

    def _start_workers(self) -> None:
        numbers = range(1, self._settings.workers + 1)
        self._workers = [self._worker(number) for number in numbers]
        for worker in self._workers:
            worker.launch()
        services: list[Service] = [*self._brokers.services(), *self._workers]
        self._keepers = [Keeper(service) for service in services]
        self._wait_until_ready()

    def _worker(self, number: int) -> Worker:
        address = self._brokers.address
        return Worker(number, self._commands.worker, self._settings, address, self._public)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        waiting = self._workers
        while waiting:
            self._give_up_on_wrong_settings()
            if time.monotonic() > deadline:
                raise WorkerError(
                    f"{waiting[0].name} is not ready after {READY_TIMEOUT_SECONDS:.0f} s: "
                    f"see {waiting[0].log}"
                )
            look(self._keepers)
            waiting = [worker for worker in waiting if not worker.is_ready()]

    def _give_up_on_wrong_settings(self) -> None:
        for worker in self._workers:
            if worker.ending() == WRONG_SETTINGS:
                raise WorkerError(worker.last_words())

    def _announce(self) -> None:
        url = self._settings.public_url
        user = '{"id":"ada","name":"Ada Lovelace","email":"ada@example.org"}'
        say(f"\nThe user registry is ready: {url}/\n", style="bold green")
        say(f"  register  curl {url}/users -H 'Content-Type: application/json' -d '{user}'")
        say(f"  look up   curl {url}/users/ada")
        say(f"  logs      {self._folder.logs}")
        say("  stop      Ctrl-C\n")

    def _watch(self) -> None:
        while True:
            look(self._keepers)

    def _stop(self) -> None:
        """Take down the workers first, as they finish their work with the broker's help."""
        ignore_signals()  # the end is near, and bounded
        try:
            stop_workers(self._folder)
        finally:
            self._brokers.stop()


def look(keepers: list[Keeper]) -> None:
    """Have each keeper look after its service, and pause."""
    for keeper in keepers:
        keeper.look()
    time.sleep(POLL_SECONDS)
