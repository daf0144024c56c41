"""Topics: one number of partitions for all; sources by time, changelogs compacted."""

import pytest

from app import topics
from app.settings import Settings


def test_every_topic_has_the_same_partitions_and_prefix() -> None:
    declared = topics.declare(Settings(partitions=12, topic_prefix="blue.")).all()
    assert {spec.partitions for spec in declared} == {12}
    assert all(spec.name.startswith("blue.") for spec in declared)
    assert len({spec.name for spec in declared}) == len(declared)


def test_names_are_public_and_do_not_drift() -> None:
    assert [spec.name for spec in topics.declare(Settings()).all()] == [
        "user-registrations",
        "user-registrations-dead-letter",
        "user-registry-users-changelog",
    ]


def test_registrations_are_kept_by_time_and_never_compacted() -> None:
    declared = topics.declare(Settings(retention_hours=2))
    assert declared.user_registrations.config["cleanup.policy"] == "delete"
    assert declared.user_registrations.config["retention.ms"] == "7200000"
    assert declared.dead_letter.config["retention.ms"] == "7200000"
    assert declared.users_changelog.config["cleanup.policy"] == "compact"


@pytest.mark.parametrize(("setting", "factor"), [(None, -1), (3, 3)])
def test_replication_is_the_brokers_default_unless_set(setting: int | None, factor: int) -> None:
    declared = topics.declare(Settings(replication_factor=setting)).all()
    assert {spec.replication_factor for spec in declared} == {factor}
