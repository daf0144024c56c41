"""A short storm: each fault once, on a broker of its own; ``python -m tests.chaos`` is the long."""

import pytest

from tests import chaos

SEED = 20


@pytest.mark.timeout(240)
def test_a_short_storm_breaks_no_promise() -> None:
    config = chaos.Config(
        seed=SEED,
        registrations=2_000,
        workers=2,
        clients=4,
        faults=1,
        suspensions=0,
        rebalances=0,
        longest_pause_seconds=0.5,
        seconds_limit=200,
        settings={"PARTITIONS": "4"},
        sample=100,
    )
    report = chaos.run(config)
    assert report.good, report.summary()
    assert report.acknowledged == 2_000
