"""A registry is saved while clients write, wiped, and restored: everything answers as before."""

import asyncio
import logging
import subprocess
import time
import uuid
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.config.connection import Connection
from app.ops.backup.exact import ExactWriter, runs
from app.ops.backup.files import Kept
from local.broker import Broker
from tests.integration.test_repartition import PATIENCE_SECONDS, register, run
from tests.support import kafka
from tests.support.clients import Writers, assert_all_found
from tests.support.java import QUICK
from tests.support.worker import Registry, email_of, is_fresh, wait_until

log = logging.getLogger(__name__)

USERS = 200_000


def assert_done(done: "subprocess.CompletedProcess[str]") -> None:
    """Fail unless a command has succeeded."""
    assert not done.stderr, done.stderr
    assert done.returncode == 0


@pytest.mark.timeout(180)
def test_backup_wipe_restore(broker: Broker, tmp_path: Path) -> None:
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "2"})
    folder = tmp_path / "backup"
    with registry.worker() as worker:
        first = register(worker, "first").json()
        register(worker, "gone")
        worker.http.delete(f"{worker.url}/users/gone", headers={"Prefer": "wait=10"})
        with Writers([worker], PATIENCE_SECONDS) as writers:
            wait_until(lambda: len(writers.accepted) > 100, 30, "clients write")
            saved = run(worker, "backup", str(folder))
            count = len(writers.accepted)
            wait_until(lambda: len(writers.accepted) > count + 50, 30, "clients write again")
        assert_done(saved)
        assert writers.failed == []
        running = run(worker, "restore", str(folder))
        assert (running.returncode, "there is a registry already" in running.stderr) == (2, True)
    again = run(worker, "backup", str(folder))
    assert (again.returncode, "is not empty" in again.stderr) == (2, True)

    with Broker(tmp_path / "another", port=0, java_options=QUICK) as empty:
        moved = replace(registry, brokers=empty.address)
        restored = moved.worker()  # the very folder: its stores are of the log before
        assert_done(run(restored, "restore", str(folder)))
        with restored:
            verified = run(restored, "verify")
            assert verified.returncode == 0, verified.stdout
            told = restored.get(f"/registrations/{first['position']}").json()
            assert told["outcome"] == "registered", told
            assert restored.get("/users/gone").status_code == 404
            assert_all_found(restored, writers.accepted[:100])
            taken = register(restored, "first")
            assert (taken.status_code, taken.json()["position"]) == (200, first["position"])
            assert register(restored, "new").status_code == 201
            body = {"id": "thief", "name": "A", "email": email_of("first")}
            thief = restored.post("/users", json=body, headers={"Prefer": "wait=10"})
            assert thief.status_code == 409
            verified = run(restored, "verify")
            assert verified.returncode == 0, verified.stdout


#: Where a log has records. Offsets are missing singly and together, at its begin and at its end.
OFFSETS, END = (1, 2, 4, 7, 8, 13), 15


async def test_each_record_gets_its_old_offset_whatever_offsets_have_none(broker: Broker) -> None:
    topic = f"exact-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(timeout=10)
    records = [Kept(offset, 5, b"key", b"%d" % offset, []) for offset in OFFSETS]
    async with ExactWriter(Connection(broker.address), f"{topic}-restore", topic, 0) as writer:
        await writer.begin(0, 0)
        for run in runs(records, 0, END):
            await writer.write(run)
        await writer.end()
    found = await asyncio.to_thread(kafka.read_all, broker.address, topic)
    assert [(kafka.place(each), each.value()) for each in found] == [
        ((0, offset), b"%d" % offset) for offset in OFFSETS
    ]
    assert await asyncio.to_thread(kafka.end_offsets, broker.address, topic) == {0: END}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_restore_that_was_killed_is_begun_again(broker: Broker, tmp_path: Path) -> None:
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "4"})
    folder = tmp_path / "backup"
    with registry.worker() as worker:
        ids = [f"many-{number}" for number in range(USERS)]
        rows = [{"id": i, "name": "A", "email": email_of(i)} for i in ids]
        for begins in range(0, USERS, 5_000):
            body = b"\n".join(map(orjson.dumps, rows[begins : begins + 5_000]))
            headers = {"Content-Type": "application/x-ndjson"}
            taken = worker.post("/users/batch", data=body, headers=headers)
            assert taken.json()["accepted"] == 5_000, taken.text
        wait_until(lambda: is_fresh(worker.get(f"/users/{ids[-1]}")), 120, "all are applied")
        began = time.monotonic()
        assert_done(run(worker, "backup", str(folder), within_seconds=200))
        log.info("backup: %.1f s", time.monotonic() - began)
    size = sum(path.stat().st_size for path in folder.iterdir())
    log.info("%s MB of files", size // 1_000_000)

    with Broker(tmp_path / "another", port=0, java_options=QUICK) as empty:
        restored = replace(registry, brokers=empty.address).worker()
        killed = subprocess.Popen(
            [*restored.command[:-1], "restore", str(folder)],
            env=restored.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert killed.stdout is not None
        assert any("are restored" in line for line in killed.stdout)
        killed.kill()
        killed.communicate()
        refused = run(restored, "worker")
        assert (refused.returncode, "being restored" in refused.stderr) == (2, True), refused
        began = time.monotonic()
        assert_done(run(restored, "restore", str(folder), within_seconds=200))
        log.info("restore: %.1f s", time.monotonic() - began)
        with restored:
            assert_all_found(restored, ids[::500])
            verified = run(restored, "verify", within_seconds=200)
            assert verified.returncode == 0, verified.stdout
