"""Freeze a small registry, as this version writes it: ``python -m tests.support.freeze FOLDER``.

A real worker and a real broker take some of everything; the backup of that, and the stores that the
worker leaves, are kept as fixtures. Later versions must read them (tests/unit/test_frozen.py). Run
it for a version that changes what is written, and keep the folders of those before.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from app.domain.keys import encode_key, partition_of
from local.broker import Broker
from tests.support.kafka import produce
from tests.support.worker import Registry, Worker, wait_until

APP_ID = "frozen"
PARTITIONS = 2
WAIT = {"Prefer": "wait=10"}


def fill(registry: Registry, worker: Worker) -> None:
    """Let everything happen that can happen to a record."""

    def send(user_id: str, name: str, email: str) -> None:
        worker.post("/users", json={"id": user_id, "name": name, "email": email}, headers=WAIT)

    def change(method: str, user_id: str, **body: str) -> None:
        worker.http.request(
            method, f"{worker.url}/users/{user_id}", json=body or None, headers=WAIT, timeout=15
        )

    for number in range(12):
        send(f"user-{number}", f"Näme {number}", f"User.{number}@Example.com")
    send("user-1", "Näme 1", "User.1@Example.com")  # replayed
    send("user-2", "Somebody else", "else@example.com")  # id taken
    send("thief", "A", "USER.3@example.com")  # email taken
    change("PATCH", "user-4", name="Renamed")
    change("PATCH", "user-5", email="new.5@example.com")
    change("PATCH", "user-6", email="user.7@example.com")  # email taken
    change("PATCH", "nobody", name="A")
    change("DELETE", "user-8")
    send("user-8", "Once more", "user.8@example.com")
    change("DELETE", "user-9")
    produce(registry.brokers, registry.registrations, _raw())
    worker.wait_for_user("astray")
    wait_until(lambda: _has_letters(worker), 10, "dead letters are there")


def _raw() -> list[dict[str, object]]:
    home = partition_of(encode_key("astray"), PARTITIONS)
    astray = b'{"id":"astray","name":"A","email":"astray@example.com"}'
    return [
        {"value": astray, "partition": 1 - home},
        {"value": b"no JSON", "partition": 0},
        {"value": b'{"id":"user-1","name":7}', "key": b"user-1", "headers": [("trace", b"1")]},
    ]


def _has_letters(worker: Worker) -> bool:
    answer = worker.get("/dead-letters", headers={"Accept": "application/json"})
    return "no JSON" in answer.text or answer.text.count("position") > 1


def freeze(folder: Path) -> None:
    """Write the fixtures to a folder that is new."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name, Broker(Path(name) / "broker", port=0) as broker:
        settings = {"PARTITIONS": str(PARTITIONS)}
        registry = Registry(broker.address, Path(name), APP_ID, settings)
        with registry.worker() as worker:
            fill(registry, worker)
            backup = [*worker.command[:-1], "backup", str(folder / "backup")]
            subprocess.run(backup, env=worker.environment, check=True, timeout=60)
        with tarfile.open(folder / "stores.tar.xz", "w:xz") as stores:
            for store in sorted({path.parent for path in worker.folder.glob("**/CURRENT")}):
                stores.add(store, store.name, filter=_without_log)


def _without_log(found: tarfile.TarInfo) -> tarfile.TarInfo | None:
    # What RocksDB tells of its work is large, and no part of the store.
    return None if Path(found.name).name.startswith("LOG") else found


if __name__ == "__main__":
    freeze(Path(sys.argv[1]))
