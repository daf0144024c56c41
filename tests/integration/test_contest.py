"""Many users want few addresses while workers are killed; `tests.chaos.contest` has more of it."""

from pathlib import Path

from local.broker import Broker
from tests.chaos import contest


def test_of_all_who_want_an_address_exactly_one_gets_it_and_the_others_are_told(
    broker: Broker, tmp_path: Path
) -> None:
    config = contest.Config(
        clients=10, users=150, emails=15, workers=3, rounds=1, seconds_limit=100
    )
    report = contest.run(config, broker.address, tmp_path)
    assert not report.wrong, report.summary()
    assert report.outcomes["registered"] + report.outcomes["replayed"] == 15
    assert report.outcomes["email-taken"] == 135
