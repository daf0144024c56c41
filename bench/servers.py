"""The servers whose acknowledgements are compared, and how a process of each is started."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from app.domain.addresses import EMAIL_PATTERN
from bench.engines import OURS, Place, Running, wait_while, whole_worker, worker_running
from bench.errors import PeerSkipped
from bench.workloads import make_topic
from local.machine import HOST, free_port
from local.places import PROJECT
from tests.support import node_toolbox

READY_SECONDS = 60
STOP_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Server:
    """One bar of the plot: what runs, from its start until it is ready, for a block's length."""

    name: str
    label: str
    running: Callable[[Place], AbstractContextManager[Running]]
    #: How it is set, as far as that makes it faster or slower.
    settings: str = ""


@contextmanager
def _ours(place: Place) -> Iterator[Running]:
    worker = whole_worker(place)
    with worker_running(worker) as running:
        wait_while(running, lambda: not worker.is_ready(), READY_SECONDS, "it is ready")
        yield running


def _node(script: str) -> Callable[[Place], AbstractContextManager[Running]]:
    return lambda place: _node_running(script, place)


@contextmanager
def _node_running(script: str, place: Place) -> Iterator[Running]:
    make_topic(place.brokers, place.topic)
    port = free_port()
    told = {
        "NODE_ENV": "production",
        "PORT": str(port),
        "KAFKA_BROKERS": place.brokers,
        "TOPIC": place.topic,
        "EMAIL_PATTERN": EMAIL_PATTERN,
    }
    with _process(_node_command(script), told, place.folder, port) as running:
        yield running


def _node_command(script: str) -> Sequence[str]:
    try:
        folder = node_toolbox.install_node_packages()
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise PeerSkipped("its npm packages cannot be had", str(error)) from None
    return [str(node_toolbox.node()), str(folder / script)]


@contextmanager
def _bare(place: Place) -> Iterator[Running]:
    port = free_port()
    command = [sys.executable, "-m", "bench.peers.bare_http", str(port)]
    with _process(command, {}, place.folder, port) as running:
        yield running


@contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, port: int
) -> Iterator[Running]:
    """Run a process, ready once it answers anything at all over HTTP."""
    folder.mkdir(parents=True)
    log, url = folder / "server.log", f"http://{HOST}:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT, env={**os.environ, **environment}, stdout=output, stderr=output
        )
    running = Running(process.pid, log, lambda: process.poll() is not None, url)
    try:
        wait_while(running, lambda: not _answers(url), READY_SECONDS, "it is ready")
        yield running
    finally:
        # Nothing of it is kept: it need not end in an orderly way.
        process.kill()
        process.wait(STOP_TIMEOUT_SECONDS)


def _answers(url: str) -> bool:
    try:
        requests.get(url, timeout=2)
    except requests.RequestException:
        return False
    return True


OUR_WORKER = Server(OURS, "this registry", _ours, "settings as they are by default")
NODE_PEER = Server(
    "node",
    "tRPC + kafkajs on Node, as its docs advise",
    _node("trpc_kafkajs.mjs"),
    "tRPC's standalone adapter, zod, producer.send for each call with acks=-1, defaults otherwise",
)
TUNED_NODE_PEER = Server(
    "node-tuned",
    "tRPC + kafkajs on Node, tuned by hand",
    _node("trpc_kafkajs_tuned.mjs"),
    "one send under way, what comes meanwhile is the next; acks=-1, idempotent; "
    "a partitioner of its own; answers in one write",
)
LIBRDKAFKA_PEER = Server(
    "node-librdkafka",
    "tRPC + librdkafka on Node, tuned by hand",
    _node("trpc_librdkafka.mjs"),
    "kafka-crab-js; the same gathering; acks=all, idempotent, linger.ms=0",
)
BARE_ANSWER = Server(
    "bare-http", "bare aiohttp answer", _bare, "reads the body, and answers 202 without Kafka"
)

SERVERS: Mapping[str, Server] = {
    server.name: server
    for server in (OUR_WORKER, NODE_PEER, TUNED_NODE_PEER, LIBRDKAFKA_PEER, BARE_ANSWER)
}
