"""An upgrade from 0.8, whose engine fences otherwise: all of its workers stop, then ours start."""

import subprocess
from pathlib import Path

import pytest

from local.broker import Broker
from tests.integration.test_repartition import PATIENCE_SECONDS, run
from tests.support import kafka
from tests.support.clients import Writers, assert_all_found
from tests.support.worker import Registry, wait_until

ROOT = Path(__file__).parents[2]
#: The last commit of version 0.8, and the last one before there were clusters and backups.
OLDER, OLDEST = "1cfddb1", "41ec8b7"
#: What a worker of 0.8 says of rows that we have written.
REFUSED = "was written by a newer version (rules 3, this one has 2): use that version"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Return the code of version 0.8."""
    return code_of(OLDER, tmp_path / "older")


def code_of(commit: str, folder: Path) -> Path:
    """Unpack the code of an older version; without the history, the test fails."""
    folder.mkdir()
    archive = ["git", "-C", str(ROOT), "archive", commit, "app", "tables", "local"]
    packed = subprocess.run(archive, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_an_upgrade_from_0_8_whose_workers_stop_or_die_while_they_write(
    broker: Broker, tmp_path: Path, older: Path
) -> None:
    settings = {"PARTITIONS": "4", "STOP_GRACE_SECONDS": "1"}
    registry = Registry(broker.address, tmp_path, settings=settings)
    workers = [registry.worker(number) for number in (1, 2, 3)]
    try:
        for worker in workers:
            worker.code = older
            worker.start()
        with Writers(workers, PATIENCE_SECONDS) as writers:
            wait_until(lambda: len(writers.accepted) > 500, 30, "clients write")
        # What was acknowledged is not all applied yet, and some of it is in open transactions.
        workers[0].kill()
        for worker in workers[1:]:
            worker.stop()
        for worker in workers:
            worker.code = None
            worker.start()
        with Writers(workers, PATIENCE_SECONDS) as more:
            wait_until(lambda: len(more.accepted) > 500, 30, "clients write")
        assert more.failed == []
        assert_all_found(workers[0], [*writers.accepted, *more.accepted])
        rebuilt = [w.log.read_text().count("a store is rebuilt") for w in workers]
        assert rebuilt == [0, 0, 0]
        verified = run(workers[0], "verify")
        assert verified.returncode == 0, verified.stdout
    finally:
        for worker in workers:
            worker.stop()


@pytest.mark.soak
def test_a_worker_of_0_8_neither_joins_ours_nor_goes_on_after_them(
    registry: Registry, older: Path
) -> None:
    ours, theirs = registry.worker(1), registry.worker(2)
    theirs.code = older
    with ours:
        user_id = "ada"
        body = {"id": user_id, "name": "Ada", "email": "ada@example.com"}
        assert ours.post("/users", json=body, headers={"Prefer": "wait=10"}).status_code == 201
        theirs.launch()
        wait_until(lambda: "Inconsistent" in theirs.log.read_text(), 30, "it is kept out")
        theirs.kill()
        body = {"id": "bob", "name": "Bob", "email": "bob@example.com"}
        assert ours.post("/users", json=body, headers={"Prefer": "wait=10"}).status_code == 201
    # Until our session is over, it would be kept out as before.
    wait_until(lambda: kafka.has_no_members(registry.brokers, registry.app_id), 30, "ours is out")
    theirs.launch()
    assert theirs.wait() != 0
    assert REFUSED in theirs.log.read_text()


@pytest.mark.soak
def test_an_older_version_refuses_what_was_repartitioned(broker: Broker, tmp_path: Path) -> None:
    oldest = code_of(OLDEST, tmp_path / "oldest")
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "2"})
    with registry.worker() as worker:
        assert run(worker, "repartition", "4").returncode == 0
    for partitions in ("2", "4"):
        refused = subprocess.run(
            worker.command,
            cwd=oldest,
            env=worker.environment | {"PARTITIONS": partitions},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert refused.stderr.startswith("PARTITIONS: topic"), refused.stderr
