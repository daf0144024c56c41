"""What is owned after an assignment: a table's partition with all its sources, or not at all."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor
from faust.types import TP

from app.connection import Connection
from app.engine.partitions import FoldedTable, Partitions
from app.engine.takeover import Takeover

COUNT = 8
OLD = ("user-registrations", "users-changelog")
NEW = (*OLD, "email-claims", "email-decisions", "emails-changelog")


def takeover(assigned: set[TP]) -> Takeover:
    """Return a takeover of two tables, of a worker that was assigned partitions."""
    partitions = Partitions()
    for name, sources in {
        "users": ("email-decisions", "user-registrations"),
        "emails": ("email-claims",),
    }.items():
        changelog: Any = SimpleNamespace(topic=f"{name}-changelog")
        partitions.add(
            FoldedTable(name, Connection("nowhere:1"), sources, changelog, cast(Any, None))
        )
    assignor = SimpleNamespace(assigned_actives=lambda: assigned)
    return Takeover(cast(Any, SimpleNamespace(assignor=assignor)), partitions)


def assign(subscriptions: dict[str, Iterable[str]]) -> dict[str, set[TP]]:
    """Return what Faust assigns to members that subscribe to topics."""
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(COUNT)))
    app = SimpleNamespace(
        tables=SimpleNamespace(data={}, changelog_topics=set(OLD) & {"users-changelog"}),
        tracer=None,
        sensors=SimpleNamespace(
            on_assignment_start=lambda *_: None, on_assignment_completed=lambda *_: None
        ),
        conf=SimpleNamespace(canonical_url="http://here"),
    )
    assignor = PartitionAssignor(cast(Any, app))
    members = {
        member: ConsumerProtocolMemberMetadata(
            0,
            list(topics),
            ClientMetadata(
                assignment=ClientAssignment(actives={}, standbys={}),
                url=f"http://{member}",
                changelog_distribution={},
                external_topic_distribution={},
                topic_groups={},
            ).dumps(),
        )
        for member, topics in subscriptions.items()
    }
    given = assignor._perform_assignment(cast(ClusterMetadata, cluster), members)
    return {
        member: {TP(topic, n) for topic, numbers in assignment.assignment for n in numbers}
        for member, assignment in given.items()
    }


def test_topics_that_all_workers_know_are_assigned_together() -> None:
    for assigned in assign({"one": NEW, "two": NEW, "three": NEW}).values():
        by_topic = [{tp.partition for tp in assigned if tp.topic == topic} for topic in NEW]
        assert by_topic[0]
        assert all(numbers == by_topic[0] for numbers in by_topic)
        wanted = takeover(assigned)._wanted()
        assert wanted == {(t, n) for n in by_topic[0] for t in ("users", "emails")}


def test_while_a_worker_of_an_older_version_is_there_no_partition_is_owned_in_part() -> None:
    """Faust then assigns the topics that it does not know by themselves."""
    torn = False
    for assigned in assign({"old": OLD, "new": NEW, "newer": NEW}).values():
        wanted = takeover(assigned)._wanted()
        for table, number in wanted:
            sources = ("email-decisions", "user-registrations") if table == "users" else ()
            assert {TP(topic, number) for topic in sources} <= assigned
        changelogs = {tp.partition for tp in assigned if tp.topic == "users-changelog"}
        torn = torn or len(changelogs) > sum(table == "users" for table, _ in wanted)
    assert torn
