"""Topics: one number of partitions for all; sources by time, changelogs compacted."""

import pytest

from app.config.settings import Settings
from app.kafka import topics


def test_every_topic_but_one_has_the_same_partitions_and_prefix() -> None:
    declared = topics.declare(Settings(partitions=12, topic_prefix="blue.")).all()
    assert [spec.partitions for spec in declared] == [12] * 7 + [1]
    assert all(spec.name.startswith("blue.") for spec in declared)
    assert len({spec.name for spec in declared}) == len(declared)


def test_names_are_public_and_do_not_drift() -> None:
    assert [spec.name for spec in topics.declare(Settings()).all()] == [
        "user-registrations",
        "user-registry-email-claims",
        "user-registry-email-decisions",
        "registration-outcomes",
        "user-registrations-dead-letter",
        "user-registry-users-changelog",
        "user-registry-emails-changelog",
        "user-registry-partitioning",
    ]


def test_tables_of_another_generation_have_changelogs_of_their_own() -> None:
    names = {spec.name for spec in topics.declare(Settings()).all()}
    after = {spec.name for spec in topics.declare(Settings().partitioned(16, 1)).all()}
    assert after - names == {
        "user-registry-users-changelog-g1",
        "user-registry-emails-changelog-g1",
    }


def test_what_a_replay_needs_is_kept_equally_long_and_never_compacted() -> None:
    declared = topics.declare(Settings(retention_hours=2))
    for spec in (declared.user_registrations, declared.email_claims, declared.email_decisions):
        assert spec.config == {"cleanup.policy": "delete", "retention.ms": "7200000"}
    assert declared.registration_outcomes.config["retention.ms"] == "7200000"
    assert declared.dead_letter.config["retention.ms"] == "7200000"


def test_erased_users_leave_what_is_compacted_in_time() -> None:
    declared = topics.declare(Settings(erase_within_hours=6))
    for spec in (declared.users_changelog, declared.emails_changelog, declared.dead_letter):
        assert "compact" in spec.config["cleanup.policy"]
        waits = int(spec.config["segment.ms"]) + int(spec.config["max.compaction.lag.ms"])
        assert waits <= 6 * 3_600_000


@pytest.mark.parametrize(("setting", "factor"), [(None, -1), (3, 3)])
def test_replication_is_the_brokers_default_unless_set(setting: int | None, factor: int) -> None:
    declared = topics.declare(Settings(replication_factor=setting)).all()
    assert {spec.replication_factor for spec in declared} == {factor}
