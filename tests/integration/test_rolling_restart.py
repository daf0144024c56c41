"""Workers are restarted one after the other, as an upgrade does it: no client notices for long."""

import logging
from pathlib import Path

import pytest

from local.broker import Broker
from tests.support.clients import Writers, assert_all_found
from tests.support.worker import Registry, wait_until

log = logging.getLogger(__name__)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_no_write_fails_and_nothing_is_rebuilt(broker: Broker, tmp_path: Path) -> None:
    settings = {"STANDBY_REPLICAS": "1", "STOP_GRACE_SECONDS": "1"}
    registry = Registry(broker.address, tmp_path, settings=settings)
    workers = [registry.worker(number) for number in (1, 2, 3)]
    try:
        for worker in workers:
            worker.start()
        with Writers(workers) as writers:
            wait_until(lambda: len(writers.accepted) > 500, 60, "clients write")
            for worker in workers:
                assert worker.stop() == 0
                worker.start()
                wait_until(lambda: all(each.is_ready() for each in workers), 60, "all are ready")
        log.info(
            "answers %s, none failed of %d, the longest took %.1f s",
            dict(writers.told),
            len(writers.accepted),
            writers.longest,
        )
        assert writers.failed == []
        assert_all_found(workers[0], writers.accepted)
        assert not [w for w in workers if "rebuilt from its changelog" in w.log.read_text()]
    finally:
        for worker in workers:
            if worker.is_running:
                worker.stop()
