"""No client without a key stops a worker: every attack, a moment each; `make soak` has more."""

from collections.abc import Iterator

import pytest

from local.broker import Broker
from tests.hostile.attacks import ATTACKS
from tests.hostile.trial import SETTINGS, attempt, fill, limited
from tests.support.worker import Registry, Worker

USERS = 5_000
LIVE_MS = 250


@pytest.fixture(scope="module")
def worker(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Run a worker with few descriptors and little memory."""
    registry = Registry(broker.address, tmp_path_factory.mktemp("hostile"), settings=SETTINGS)
    with limited(registry.worker()) as running:
        fill(running, USERS)
        yield running


@pytest.mark.parametrize(
    "seconds", [1, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_client_stops_nothing(worker: Worker, attack: str, seconds: float) -> None:
    result = attempt(attack, worker, seconds)
    assert not result.failures, result.line()
    assert result.write_ms, "the honest client was not served"
    # The short form shares the machine with other tests.
    if seconds > 1:
        assert result.live_p99_ms < LIVE_MS, result.line()
