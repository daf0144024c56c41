"""The engines that are compared, and how a process of each is started and ended."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.domain.addresses import EMAIL_PATTERN
from bench import java
from bench.errors import PeerFailed, PeerSkipped
from bench.workloads import PARTITIONS
from local.places import PROJECT
from tests.support.worker import Registry, Worker

#: Of `make bench`: Quix Streams cannot live in one environment with the versions that we use.
PEERS_PYTHON = Path(sys.prefix) / "peers" / "bin" / "python"
STOP_TIMEOUT_SECONDS = 10
LOG_TAIL = 600


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process reads, under which name it commits, and where its state is."""

    brokers: str
    topic: str
    prefix: str
    group: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Running:
    """A process at work."""

    pid: int
    log: Path
    ended: Callable[[], bool]
    url: str | None = None

    def require_alive(self) -> None:
        """Raise `PeerFailed` with its last words if the process has ended."""
        if self.ended():
            raise PeerFailed("it ended", self.last_words())

    def last_words(self) -> str:
        """Return the end of what it wrote."""
        return self.log.read_text(errors="replace")[-LOG_TAIL:].strip()


@dataclass(frozen=True, slots=True)
class Engine:
    """One bar of the plot."""

    name: str
    label: str
    command: Callable[[], Sequence[str]] = field(default=tuple)
    recovers: bool = False
    #: How it is set, as far as that makes it faster or slower.
    settings: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is the registry's own engine."""
        return self.name == OURS

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        """Run a process for the length of a block; raise `PeerSkipped` where it cannot run."""
        if self.is_ours:
            with worker_running(plain_worker(place)) as running:
                yield running
        else:
            with peer_running([*self.command(), *arguments(place)], place.folder) as running:
                yield running


def plain_worker(place: Place) -> Worker:
    """Return a worker that does what the peers do: it asks nobody for an address."""
    worker = whole_worker(place)
    worker.command = [sys.executable, "-m", "bench.plain_worker", "worker"]
    return worker


def whole_worker(place: Place) -> Worker:
    """Return a worker of the registry that is not started yet."""
    return worker_registry(place).worker()


def worker_registry(place: Place) -> Registry:
    """Return the registry of a place."""
    settings = {"TOPIC_PREFIX": place.prefix, "LOG_FORMAT": "json", "PARTITIONS": str(PARTITIONS)}
    return Registry(place.brokers, place.folder, place.group, settings)


@contextmanager
def worker_running(worker: Worker) -> Iterator[Running]:
    """Run a worker of the registry for the length of a block."""
    worker.launch()
    try:
        yield Running(worker.pid, worker.log, lambda: worker.has_ended, worker.url)
    finally:
        worker.stop()


@contextmanager
def peer_running(command: Sequence[str], folder: Path) -> Iterator[Running]:
    """Run a peer's process for the length of a block."""
    folder.mkdir(parents=True)
    log = folder / "peer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output)
    try:
        yield Running(process.pid, log, lambda: process.poll() is not None)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def arguments(place: Place) -> Sequence[str]:
    """Return what every peer is told on its command line."""
    told = {
        "brokers": place.brokers,
        "topic": place.topic,
        "group": place.group,
        "folder": str(place.folder / "state"),
        "partitions": str(PARTITIONS),
    }
    return words(told)


def words(told: Mapping[str, str]) -> list[str]:
    """Return names and values as a command line has them."""
    return [word for name, value in told.items() for word in (f"--{name}", value)]


def _python(module: str, *more: str) -> Callable[[], Sequence[str]]:
    def command() -> Sequence[str]:
        if not PEERS_PYTHON.exists():
            raise PeerSkipped("its packages are not installed: `make bench` does it")
        return [str(PEERS_PYTHON), "-m", f"bench.peers.{module}", *more]

    return command


def _streams(threads: int, guarantee: str) -> Callable[[], Sequence[str]]:
    def command() -> Sequence[str]:
        told = {"threads": str(threads), "guarantee": guarantee, **email_patterns()}
        return [*java.kafka_streams(), *words(told)]

    return command


def email_patterns() -> Mapping[str, str]:
    """Return the rule for addresses as Java takes it, and the part of it that is all ASCII."""
    escaped = "".join(c if c.isascii() else f"\\x{{{ord(c):x}}}" for c in EMAIL_PATTERN)
    return {
        "email-pattern": escaped,
        "ascii-email-pattern": re.sub(r"[^\x00-\x7f]-[^\x00-\x7f]", "", EMAIL_PATTERN),
    }


OURS = "ours"

_STREAMS_SETTINGS = (
    "a commit a second, linger.ms=20, batch.size=512 KiB, max.poll.records=5,000, "
    "fetch.min.bytes=64 KiB"
)
_QUIX_SETTINGS = (
    "commit_interval=1 s, linger.ms=20, batch.size=1 MiB, fetch.min.bytes=64 KiB, "
    "RocksDB without fsync"
)

ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            OURS,
            "this registry's engine",
            recovers=True,
            settings="exactly once; settings as they are by default",
        ),
        Engine(
            "streams",
            "Kafka Streams, 2 threads",
            _streams(2, "at_least_once"),
            recovers=True,
            settings=f"at least once; {_STREAMS_SETTINGS}",
        ),
        Engine(
            "streams-eos",
            "Kafka Streams, exactly once",
            _streams(2, "exactly_once_v2"),
            settings=f"exactly once; {_STREAMS_SETTINGS}",
        ),
        Engine(
            "streams-1",
            "Kafka Streams, 1 thread",
            _streams(1, "at_least_once"),
            settings=f"at least once; {_STREAMS_SETTINGS}",
        ),
        Engine(
            "quix", "Quix Streams", _python("quix"), settings=f"at least once; {_QUIX_SETTINGS}"
        ),
        Engine(
            "quix-eos",
            "Quix Streams, exactly once",
            _python("quix", "--exactly-once"),
            settings=f"exactly once; {_QUIX_SETTINGS}",
        ),
        Engine(
            "faust",
            "stock Faust",
            _python("stock_faust"),
            recovers=True,
            settings="at least once; as its docs have it",
        ),
        Engine(
            "faust-tuned",
            "stock Faust, tuned",
            _python("stock_faust", "--tuned"),
            recovers=True,
            settings="at least once; uvloop, producer_linger=0.02, producer_max_batch_size=1 MiB, "
            "stream_buffer_maxsize=16,384, consumer_max_fetch_size=4 MiB, "
            "recovery_buffer_size=100,000",
        ),
        Engine(
            "bare",
            "bare librdkafka loop",
            _python("bare"),
            settings="at least once; linger.ms=20, batch.size=1 MiB, a commit a second",
        ),
    )
}


def wait_while(running: Running, condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait while a condition holds; raise `PeerFailed` at the deadline, or if the process ends."""
    deadline = time.monotonic() + seconds
    while condition():
        running.require_alive()
        if time.monotonic() > deadline:
            raise PeerFailed(f"not within {seconds:.0f} s: {what}", running.last_words())
        time.sleep(0.05)
