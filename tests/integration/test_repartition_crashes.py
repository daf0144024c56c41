"""Workers and the broker are killed while a registry gets more partitions: nothing is lost."""

import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from local.broker import Broker
from tests.integration.test_repartition import begin, run
from tests.support.clients import Writers, assert_all_found
from tests.support.worker import Registry, wait_until

log = logging.getLogger(__name__)

#: A write waits for a broker and for workers, one after the other.
PATIENCE_SECONDS = 120.0


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["worker", "broker", "both"])
@pytest.mark.parametrize("stage", ["are copied", "writes are held", "topics grow"])
def test_what_was_acknowledged_is_found_and_the_command_can_be_given_again(
    tmp_path: Path, stage: str, victim: str
) -> None:
    with Broker(tmp_path / "kafka", port=0) as broker:
        registry = Registry(broker.address, tmp_path, settings={"PARTITIONS": "2"})
        with registry.worker(1) as first, registry.worker(2) as second:
            with Writers([first, second], PATIENCE_SECONDS) as writers:
                wait_until(lambda: len(writers.accepted) > 300, 30, "clients write")
                changing = begin(first, "repartition", "4", until=stage)
                if victim != "worker":
                    broker.kill()
                if victim != "broker":
                    first.kill()
                if victim != "worker":
                    broker.start()
                if victim != "broker":
                    first.start()
                ended, said = _end(changing)
                log.info("%s, %s: status %d: %s", stage, victim, ended, said)
                assert "Traceback" not in said
                again = run(first, "repartition", "4", within_seconds=120)
                assert (again.returncode, again.stderr) == (0, ""), again
                log.info("again: %s", again.stdout)
                count = len(writers.accepted)
                wait_until(lambda: len(writers.accepted) > count + 300, 90, "clients write again")
            log.info("%s; longest %.1f s", writers.told, writers.longest)
            assert writers.failed == []
            second.http.close()  # its connections were to the process before
            assert_all_found(second, writers.accepted)
            for worker in (first, second):
                worker.stop()
                shutil.rmtree(worker.folder)
            first.start()
            assert_all_found(first, writers.accepted)
            assert run(first, "repartition").stdout.startswith("4 partitions")
            verified = run(first, "verify")
            assert verified.returncode == 0, verified.stdout


def _end(changing: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for a command to end; return its status, and what it said since it was looked at."""
    said, _ = changing.communicate(timeout=200)
    return changing.returncode, said
