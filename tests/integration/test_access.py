"""Two real workers that ask for keys and speak https, to each other as well."""

import os
import socket
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import requests

from app.access.keys import hash_of
from local.broker import Broker
from tests.support.authority import Authority
from tests.support.worker import Registry, Worker, email_of, wait_until


@dataclass
class Place:
    """A registry, its certificates, and a key that may do everything."""

    registry: Registry
    authority: Authority
    admin: str
    workers: tuple[Worker, ...] = ()

    def keys(self, *arguments: str) -> str:
        """Run ``keys`` with some arguments; return what it tells."""
        return _keys(self.registry, *arguments)


def _keys(registry: Registry, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "app", "keys", *arguments],
        env={**os.environ, **registry.settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return ran.stdout.strip()


@pytest.fixture(scope="module")
def place(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Run two workers."""
    folder = tmp_path_factory.mktemp("access")
    authority = Authority(folder)
    authority.issue()
    cert, key = authority.files
    settings = {
        "KEYS_FILE": str(folder / "keys.json"),
        "EMAIL_SECRET": uuid.uuid4().hex,
        "TLS_CERT_FILE": str(cert),
        "TLS_KEY_FILE": str(key),
        "TLS_CA_FILE": str(authority.ca_file),
    }
    registry = Registry(broker.address, folder, settings=settings)
    admin = _keys(registry, "create", "--name", "all", "--scope", "admin")
    workers = registry.worker(1), registry.worker(2)
    for worker in workers:
        worker.http.headers["Authorization"] = f"Bearer {admin}"
    with workers[0], workers[1]:
        wait_until(lambda: all(worker.is_ready() for worker in workers), 30, "both are ready")
        yield Place(registry, authority, admin, workers)


def fresh() -> dict[str, str]:
    """Return a registration that no other test makes."""
    user_id = f"access-{uuid.uuid4().hex}"
    return {"id": user_id, "name": "Ada", "email": email_of(user_id)}


def status(worker: Worker, key: str) -> int:
    """Return how a lookup with some key is answered, on a connection of its own."""
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(
        f"{worker.url}/users?id=nobody", headers=headers, verify=worker.http.verify, timeout=10
    ).status_code


def is_told(worker: Worker, key: str, expected: int) -> bool:
    """Return whether a lookup with some key is answered so."""
    return status(worker, key) == expected


def serial(worker: Worker, authority: Authority) -> str:
    """Return the number of the certificate that a new connection gets."""
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    with (
        socket.create_connection(("127.0.0.1", worker.port), timeout=10) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as safe,
    ):
        certificate = safe.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_workers_find_each_others_users_over_https(place: Place) -> None:
    users = [fresh() for _ in range(16)]
    for user in users:
        assert place.workers[0].post("/users", json=user).status_code == 202
    for worker in place.workers:
        for user in users:
            assert worker.wait_for_user(user["id"])["email"] == user["email"]
        answer = worker.get("/users", params={"email": users[0]["email"]})
        assert answer.json()["id"] == users[0]["id"]
        listed = worker.get("/users", params={"limit": 1000}).json()["users"]
        assert {user["id"] for user in users} <= {user["id"] for user in listed}


def test_the_health_check_of_containers_speaks_https_and_needs_no_key(place: Place) -> None:
    worker = place.workers[0]
    for arguments in ([], ["--live"]):
        done = subprocess.run(
            [sys.executable, "-m", "app.health", *arguments],
            env=worker.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "ok\n"), done


def test_strangers_get_nothing(place: Place) -> None:
    for worker in place.workers:
        assert status(worker, "") == 401
        answer = requests.post(
            f"{worker.url}/users", json=fresh(), verify=worker.http.verify, timeout=10
        )
        assert answer.status_code == 401


def test_keys_are_created_and_revoked_while_workers_run(place: Place) -> None:
    name = f"key-{uuid.uuid4().hex[:8]}"
    key = place.keys("create", "--name", name, "--scope", "read")
    for worker in place.workers:
        wait_until(partial(is_told, worker, key, 404), 30, "the key is accepted")
        forbidden = requests.post(
            f"{worker.url}/users",
            json=fresh(),
            headers={"Authorization": f"Bearer {key}"},
            verify=worker.http.verify,
            timeout=10,
        )
        assert forbidden.status_code == 403
    place.keys("revoke", name)
    for worker in place.workers:
        wait_until(partial(is_told, worker, key, 401), 30, "the key is refused")


def test_a_renewed_certificate_is_served_without_a_restart(place: Place) -> None:
    worker = place.workers[0]
    before, pid = serial(worker, place.authority), worker.pid
    place.authority.issue()
    wait_until(lambda: serial(worker, place.authority) != before, 30, "the new one is served")
    assert worker.pid == pid
    assert status(worker, place.admin) == 404


def test_logs_hold_no_keys(place: Place) -> None:
    for worker in place.workers:
        logged = worker.log.read_text()
        assert place.admin not in logged
        assert hash_of(place.admin) not in logged
        assert "Traceback" not in logged


def test_plain_http_gets_nothing(place: Place) -> None:
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{place.workers[0].port}/health/live", timeout=10)


def test_a_broken_certificate_is_told_in_one_line(place: Place, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nonsense")
    (tmp_path / "key.pem").write_text("nonsense")
    settings = {
        **place.registry.settings,
        "TLS_CERT_FILE": str(tmp_path / "cert.pem"),
        "TLS_KEY_FILE": str(tmp_path / "key.pem"),
    }
    worker = Registry(place.registry.brokers, tmp_path, settings=settings).worker()
    worker.launch()
    assert worker.wait() == 2
    told = worker.log.read_text()
    assert told.startswith("TLS_CERT_FILE, TLS_KEY_FILE: must hold")
    assert told.count("\n") == 1
