"""How fast a server acknowledges registrations over HTTP: each interval is a fresh server's.

The highest load is the best of several numbers of connections, each sending as fast as answers
come. At half of it, sent by a schedule, latencies count from when a request was due. Our worker
also applies what it accepts; a fresh one has no backlog of an interval before.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from bench.driver import Driven, drive
from bench.engines import Place
from bench.meter import Meter
from bench.results import Bar
from bench.servers import (
    BARE_ANSWER,
    LIBRDKAFKA_PEER,
    NODE_PEER,
    OUR_WORKER,
    TUNED_NODE_PEER,
    Server,
)

#: Connections to try: requests of one registration, and of many.
SINGLES = (32, 64, 128, 256, 512)
BATCHES = (8, 16, 32)
#: Bodies that are streams: the worker reads some of each at a time.
STREAMS = (2, 8)


@dataclass(frozen=True, slots=True)
class Work:
    """How registrations are sent, to which servers, and what is asked of the ratio to a peer."""

    name: str
    label: str
    mode: str
    batch: int
    connections: Sequence[int]
    servers: Sequence[Server]
    #: By the peer: floor and aim.
    wanted: Mapping[str, tuple[float, float]] = field(default_factory=dict)


_TRPC = OUR_WORKER, NODE_PEER, TUNED_NODE_PEER, LIBRDKAFKA_PEER
#: Of single requests, and of batches.
_WANTED = {NODE_PEER.name: (10, 12), TUNED_NODE_PEER.name: (3.2, 4)}
_WANTED_100 = {NODE_PEER.name: (10, 20), TUNED_NODE_PEER.name: (4, 6)}

WORKS: Sequence[Work] = (
    Work("trpc", "tRPC, one a request", "trpc", 1, SINGLES, _TRPC, _WANTED),
    Work("trpc-100", "tRPC, batches of 100", "trpc", 100, BATCHES, _TRPC, _WANTED_100),
    Work("rest", "REST, one a request", "single", 1, SINGLES, (OUR_WORKER, BARE_ANSWER)),
    Work("rest-1000", "REST, 1,000 a request", "batch", 1_000, BATCHES, (OUR_WORKER,)),
    Work("ndjson", "NDJSON, 10,000 a request", "ndjson", 10_000, STREAMS, (OUR_WORKER,)),
)


@dataclass(frozen=True, slots=True)
class Contender:
    """One server at one work."""

    work: Work
    server: Server

    @property
    def name(self) -> str:
        """Whose bar it is."""
        return self.server.name

    @property
    def label(self) -> str:
        """What is measured."""
        return f"{self.work.label}, {self.server.label}"


CONTENDERS: Sequence[Contender] = tuple(
    Contender(work, server) for work in WORKS for server in work.servers
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A time under load. CPU is microseconds a registration, of the server and of the broker."""

    connections: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    broker_cpu_us: float
    #: Registrations that were offered, and not acknowledged.
    refused: int
    client_limited: bool


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One run: the highest load over all numbers of connections, and latencies at half of it."""

    full: Sequence[Interval]
    half: Interval

    @property
    def best(self) -> Interval:
        """The interval of the highest load."""
        return max(self.full, key=lambda each: each.per_second)

    @property
    def per_second(self) -> float:
        """The highest load."""
        return self.best.per_second

    @property
    def cpu_us(self) -> float:
        """The server's CPU at the highest load."""
        return self.best.cpu_us

    @property
    def broker_cpu_us(self) -> float:
        """The broker's CPU at the highest load."""
        return self.best.broker_cpu_us

    @property
    def p50_ms(self) -> float:
        """The median latency at half of it."""
        return self.half.p50_ms

    @property
    def p99_ms(self) -> float:
        """What one latency in a hundred exceeds at half of it."""
        return self.half.p99_ms


Places = Callable[[], AbstractContextManager[Place]]


def measure(contender: Contender, places: Places, broker_pid: int, seconds: float) -> Acknowledged:
    """Find the highest load that a server takes, and offer it half of that."""

    def interval(connections: int, rate: float | None = None) -> Interval:
        with places() as place:
            return _interval(contender, place, broker_pid, connections, seconds, rate)

    full = [interval(connections) for connections in contender.work.connections]
    best = max(full, key=lambda each: each.per_second)
    return Acknowledged(full, interval(best.connections, best.per_second / 2))


def _interval(
    contender: Contender,
    place: Place,
    broker_pid: int,
    connections: int,
    seconds: float,
    rate: float | None,
) -> Interval:
    work = contender.work
    with (
        contender.server.running(place) as running,
        Meter(running.pid) as meter,
        Meter(broker_pid) as broker,
    ):
        driven = drive(running, work.mode, work.batch, connections, seconds, rate)
        return Interval(
            connections=connections,
            per_second=driven.per_second,
            p50_ms=driven.p50_ms,
            p99_ms=driven.p99_ms,
            cpu_us=_cpu_us(meter, driven),
            broker_cpu_us=_cpu_us(broker, driven),
            refused=driven.refused,
            client_limited=driven.client_limited,
        )


def _cpu_us(used: Meter, driven: Driven) -> float:
    return used.cpu_seconds(driven.began, driven.ended) / driven.acknowledged * 1e6


def by_work(contenders: Sequence[Contender], bars: Sequence[Bar]) -> dict[str, Any]:
    """Return the bars of some contenders as the results have them."""
    told: dict[str, Any] = {}
    for contender, bar in zip(contenders, bars, strict=True):
        work = contender.work
        of_work = told.setdefault(work.name, {"label": work.label, "bars": []})
        of_work["bars"].append(_told(contender, bar))
    return told


def _told(contender: Contender, bar: Bar) -> dict[str, Any]:
    told = bar.as_json("per_second", ("cpu_us", "broker_cpu_us", "p50_ms", "p99_ms"))
    floor, aim = contender.work.wanted.get(contender.name, (None, None))
    return {**told, "label": contender.server.label, "floor": floor, "aim": aim}
