"""An upgrade, one worker after the other, and back: both versions work side by side meanwhile."""

import logging
import subprocess
from pathlib import Path

import pytest

from local.broker import Broker
from tests.clients import Writers, assert_all_found
from tests.integration.test_repartition import PATIENCE_SECONDS, run
from tests.worker import Registry, Worker, wait_until

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
#: The last commit before there were clusters, repartitioning and backups.
OLDER = "41ec8b7"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Return the code of an older version; without the history, the test fails."""
    folder = tmp_path / "older"
    folder.mkdir()
    archive = ["git", "-C", str(ROOT), "archive", OLDER, "app", "tables", "local"]
    packed = subprocess.run(archive, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


def change(worker: Worker, code: Path | None, writers: Writers) -> None:
    """Let a worker end, and start it with other code; clients write before, meanwhile, after."""
    worker.stop()
    worker.code = code
    worker.start()
    count = len(writers.accepted)
    wait_until(lambda: len(writers.accepted) > count + 100, 30, "clients write")


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_an_upgrade_and_the_way_back_with_both_versions_side_by_side(
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
            for code in (None, older, None):
                for worker in workers:
                    change(worker, code, writers)
        log.info("%s; longest %.1f s", writers.told, writers.longest)
        assert writers.failed == []
        assert_all_found(workers[0], writers.accepted)
        rebuilt = [w.log.read_text().count("a store is rebuilt") for w in workers]
        assert rebuilt == [0, 0, 0]
        verified = run(workers[0], "verify")
        assert verified.returncode == 0, verified.stdout
    finally:
        for worker in workers:
            worker.stop()


@pytest.mark.soak
def test_an_older_version_refuses_what_was_repartitioned(
    broker: Broker, tmp_path: Path, older: Path
) -> None:
    registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "2"})
    with registry.worker() as worker:
        assert run(worker, "repartition", "4").returncode == 0
    for partitions in ("2", "4"):
        refused = subprocess.run(
            worker.command,
            cwd=older,
            env=worker.environment | {"PARTITIONS": partitions},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert refused.stderr.startswith("PARTITIONS: topic"), refused.stderr
