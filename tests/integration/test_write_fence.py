"""What a client was told stays true: nothing lands late, and nothing stale is written.

A proxy holds a connection back, as a kernel or a slow network does, and delivers it at the end.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from app.domain.keys import encode_key, partition_of
from local.machine import HOST
from tests.support.kafka import end_offsets, read_all
from tests.support.net import Net, bad_network
from tests.support.worker import Registry, Worker, email_of, wait_until

ACK_SECONDS = 1.0
SETTINGS = {"ACK_TIMEOUT_SECONDS": str(ACK_SECONDS), "PARTITIONS": "4"}
WAIT = {"Prefer": "wait=10"}
#: Code that has no fence holds a partition for 10 s.
ACCEPTED_WITHIN_SECONDS = 20.0
PROBLEM = "urn:user-registry:problem:"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Run a broker that is reached through a proxy."""
    with bad_network(tmp_path_factory.mktemp("far")) as running:
        yield running


def body(user_id: str) -> dict[str, str]:
    return {"id": user_id, "name": "Ada", "email": email_of(user_id)}


def home(user_id: str) -> int:
    return partition_of(encode_key(user_id), int(SETTINGS["PARTITIONS"]))


def neighbour(user_id: str) -> str:
    """Return another id of the same partition, in which this one does not occur."""
    names = (f"neighbour-{number}" for number in range(1000))
    return next(name for name in names if home(name) == home(user_id))


def register(worker: Worker, user_id: str) -> None:
    """Register a user, as a client that tries again until it is accepted; wait until settled."""

    def accepted() -> bool:
        told = worker.post("/users", json=body(user_id), headers=WAIT)
        return told.status_code in (200, 201)

    wait_until(accepted, ACCEPTED_WITHIN_SECONDS, f"{user_id} is registered")


def erase(worker: Worker, user_id: str) -> None:
    told = worker.http.delete(f"{worker.url}/users/{user_id}", headers=WAIT, timeout=15)
    assert (told.status_code, told.json()["status"]) == (200, "erased")


def records_of(net: Net, registry: Registry, user_id: str) -> list[bytes | None]:
    found = read_all(net.broker.address, registry.registrations)
    return [message.value() for message in found if message.key() == user_id.encode()]


def assert_stays_gone(net: Net, worker: Worker, user_id: str) -> None:
    """Deliver what is held back, and fail if the erased user comes back, or was written again."""
    before = records_of(net, worker.registry, user_id)
    net.proxy.release()
    time.sleep(2)  # what must not happen has this long to happen
    # What is written behind it is settled: so would it be.
    register(worker, neighbour(user_id))
    assert worker.get(f"/users/{user_id}").status_code == 404
    assert records_of(net, worker.registry, user_id) == before


def test_a_write_that_was_told_to_be_of_unknown_outcome_never_lands_after_its_retry(
    net: Net, tmp_path: Path
) -> None:
    registry = Registry(net.far, tmp_path, settings=SETTINGS)
    with registry.worker() as worker:
        register(worker, "warm")
        net.proxy.hold(b"late-user")
        ends = end_offsets(net.broker.address, registry.registrations)
        began = time.monotonic()
        told = worker.post("/users", json=body("late-user"))
        seconds = time.monotonic() - began
        assert net.proxy.is_holding()
        assert (told.status_code, told.json()["type"]) == (503, PROBLEM + "outcome-unknown")
        assert ACK_SECONDS <= seconds < 2 * ACK_SECONDS + 2
        # The fence is in the log before anybody is told.
        after = end_offsets(net.broker.address, registry.registrations)
        is_fenced = after[home("late-user")] > ends[home("late-user")]
        register(worker, "late-user")
        erase(worker, "late-user")
        assert_stays_gone(net, worker, "late-user")
        assert is_fenced
        assert [value is None for value in records_of(net, registry, "late-user")] == [False, True]


def test_what_a_worker_left_when_it_was_killed_never_lands_after_the_next_has_started(
    net: Net, tmp_path: Path
) -> None:
    registry = Registry(net.far, tmp_path, settings=SETTINGS)
    with registry.worker() as worker:
        register(worker, neighbour("left-user"))
        net.proxy.hold(b"left-user")
        url = f"{worker.url}/users"
        with pytest.raises(requests.Timeout):
            requests.post(url, json=body("left-user"), timeout=ACK_SECONDS / 2)
        wait_until(net.proxy.is_holding, 30, "the write is held")
        worker.kill()
        worker.start()
        register(worker, "left-user")
        erase(worker, "left-user")
        assert_stays_gone(net, worker, "left-user")


def test_without_a_fence_a_client_is_told_that_the_write_may_still_land(
    net: Net, tmp_path: Path
) -> None:
    registry = Registry(net.far, tmp_path, settings=SETTINGS)
    with registry.worker() as worker:
        register(worker, "open-user")
        net.proxy.cut()
        try:
            began = time.monotonic()
            told = worker.post("/users", json=body("open-user-2"))
            seconds = time.monotonic() - began
            # Nothing else is taken until the fence is there.
            refused = worker.post("/users", json=body(neighbour("open-user-2")))
        finally:
            net.proxy.mend()
        assert (told.status_code, told.json()["type"]) == (503, PROBLEM + "outcome-open")
        assert "look before you retry" in told.json()["detail"]
        assert told.headers["Retry-After"]
        assert seconds < 2 * ACK_SECONDS + 2
        assert refused.status_code == 503
        assert refused.json()["type"] == PROBLEM + "broker-unavailable"
        wait_until(worker.is_ready, 60, "the worker is back")
        register(worker, neighbour("open-user-2"))


# -- requests that waited in the socket of a worker that stood still


def post(path: str, content: bytes, kind: str = "application/json", more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\n{more}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def single(user_id: str) -> bytes:
    return json.dumps(body(user_id)).encode()


def over_rest(user_id: str) -> bytes:
    return post("/users", single(user_id))


def over_rest_slowly(user_id: str) -> bytes:
    return post("/users", single(user_id), more="Prefer: wait=1\r\n")


def over_trpc(user_id: str) -> bytes:
    return post("/trpc/registerUser", single(user_id))


def in_a_trpc_batch(user_id: str) -> bytes:
    calls = json.dumps({"0": body(user_id), "1": body(f"{user_id}-b")}).encode()
    return post("/trpc/registerUser,registerUser?batch=1", calls)


def in_an_array(user_id: str) -> bytes:
    return post("/users/batch", b"[" + single(user_id) + b"]")


def in_lines(user_id: str) -> bytes:
    return post("/users/batch", single(user_id) + b"\n", "application/x-ndjson")


def as_an_erasure(user_id: str) -> bytes:
    return f"DELETE /users/{user_id} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


WAYS: list[Callable[[str], bytes]] = [
    over_rest,
    over_rest_slowly,
    over_trpc,
    in_a_trpc_batch,
    in_an_array,
    in_lines,
    as_an_erasure,
]


def answer_of(connection: socket.socket) -> bytes:
    """Return what comes first, nothing if the connection was closed."""
    connection.settimeout(10)
    try:
        return connection.recv(64 * 1024)
    except ConnectionError:
        return b""


def is_refused(told: bytes) -> bool:
    """Return whether an answer says that a request was too old, or there is none."""
    return not told or (b" 503 " in told and b"stale-request" in told and b"Retry-After: 1" in told)


def test_what_waited_in_a_stopped_workers_socket_is_not_written(net: Net, tmp_path: Path) -> None:
    registry = Registry(net.broker.address, tmp_path, settings=SETTINGS)
    with registry.worker() as worker, ExitStack() as opened:
        register(worker, "warm")

        def connect() -> socket.socket:
            return opened.enter_context(socket.create_connection((HOST, worker.port)))

        connections = [connect() for _ in WAYS]
        for connection in connections:
            connection.sendall(f"GET /users/warm HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            assert b" 200 " in answer_of(connection)
        worker.suspend()
        try:
            connections += [connect() for _ in WAYS]
            for number, connection in enumerate(connections):
                connection.sendall(WAYS[number % len(WAYS)](f"stale-{number}"))
            time.sleep(2.5 * ACK_SECONDS)
        finally:
            worker.resume()
        woke = time.monotonic()

        def is_taken() -> bool:
            return worker.post("/users", json=body("fresh")).status_code == 202

        wait_until(is_taken, 30, "a new write is taken")
        took = time.monotonic() - woke
        told = {n: answer_of(connection) for n, connection in enumerate(connections)}
        wrong = {n: answer for n, answer in told.items() if not is_refused(answer)}
        assert not wrong
        keys = [message.key() for message in read_all(registry.brokers, registry.registrations)]
        assert b"fresh" in keys
        assert not [key for key in keys if key and key.startswith(b"stale")]
        assert took < 5
