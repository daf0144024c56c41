"""What it takes to make the topics as they are declared."""

from typing import Any

import pytest

from app.kafka.topics.declaration import TopicSpec
from app.kafka.topics.planning import Action, Found, Step, steps


def spec(**more: Any) -> TopicSpec:
    given: dict[str, Any] = {"name": "t", "partitions": 4, "replication_factor": -1, **more}
    return TopicSpec(**given)


def found(*replicas: list[int], **own: str) -> Found:
    return Found(replicas or [[1], [1], [1], [1]], own)


def planned(wanted: TopicSpec, there: Found | None, brokers: int = 3) -> list[Step]:
    return steps([wanted], {} if there is None else {"t": there}, range(1, brokers + 1))


def test_a_topic_that_is_as_it_should_be_needs_nothing() -> None:
    assert planned(spec(config={"a": "1"}), found(a="1", b="2")) == []


def test_a_missing_topic_is_made() -> None:
    (step,) = planned(spec(config={"a": "1"}), None)
    assert step.line() == "create  t: 4 partitions, the brokers' default of copies, a=1"


def test_settings_are_altered_and_others_stay() -> None:
    (step,) = planned(spec(config={"a": "1", "b": "2"}), found(b="3", c="4"))
    assert step.line() == "alter   t: a: unset -> 1, b: 3 -> 2"
    assert step.config == {"a": "1", "b": "2", "c": "4"}


@pytest.mark.parametrize("partitions", [3, 5])
def test_another_number_of_partitions_is_refused(partitions: int) -> None:
    (step,) = planned(spec(partitions=partitions), found())
    assert step.action is Action.REFUSE
    assert f"topic t has 4 partitions and the setting is {partitions}" in step.change


def test_more_copies_stay_where_they_are_and_spread_over_the_others() -> None:
    (step,) = planned(spec(replication_factor=2), found([1], [2], [3], [1]))
    assert step.change == "copies: 1 -> 2"
    assert step.replicas == [[1, 2], [2, 3], [3, 1], [1, 2]]


def test_fewer_copies_keep_the_first() -> None:
    (step,) = planned(spec(replication_factor=1), found([1, 2], [2, 3], [3, 1], [1, 2]))
    assert step.replicas == [[1], [2], [3], [1]]


def test_copies_are_not_moved_where_the_brokers_decide() -> None:
    assert planned(spec(), found([1, 2], [2, 3], [3, 1], [1, 2])) == []


def test_more_copies_than_brokers_are_refused() -> None:
    for there in (None, found()):
        (step,) = planned(spec(replication_factor=3), there, brokers=2)
        assert step.action is Action.REFUSE
        assert step.change.startswith("REPLICATION_FACTOR: 3 copies of topic t need as many")


@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_every_partition_has_as_many_different_brokers(wanted: int) -> None:
    there = found([4, 1], [2], [3, 2, 1], [1])
    for step in planned(spec(replication_factor=wanted), there, brokers=4):
        assert step.replicas is not None
        assert [len(set(each)) for each in step.replicas] == [wanted] * 4
        for each, before in zip(step.replicas, there.replicas, strict=True):
            assert each[0] == before[0]
