"""Checks the consumer group: members, partitions without an owner, lag."""

from collections.abc import Iterator, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from app.config.settings import Settings
from app.kafka.admin_client import AdminClient, Group
from app.kafka.topics import declare
from app.ops.doctor.findings import Finding, ok, problem, warning
from app.ops.doctor.topics import partitions_by_topic

#: A partition with more waiting records gets a warning.
MANY_RECORDS = 10_000
#: At most this many partitions of a topic are listed.
MAX_LISTED = 12

#: A topic's lag in records, by partition.
Lags = Mapping[int, int]


async def check(admin: AdminClient, settings: Settings) -> Sequence[Finding]:
    """Check the group's members, their partitions, and the lag."""
    topics = declare(settings)
    sources = topics.user_registrations, topics.email_claims, topics.email_decisions
    there = await partitions_by_topic(admin)
    wanted = [
        TopicPartition(spec.name, each["partition"])
        for spec in sources
        for each in there.get(spec.name, ())
    ]
    group = await admin.group(settings.app_id)
    lags = await _lags(admin, settings, wanted) if wanted else {}
    return [*judge_group(group, wanted), *(judge_lag(name, lags[name]) for name in lags)]


def judge_group(group: Group, wanted: Sequence[TopicPartition]) -> Iterator[Finding]:
    """Yield the members of the group, and the partitions without an owner."""
    if not group.owned:
        yield warning(
            f"no worker is in the group {group.name}: nothing is applied",
            "start one: python -m app worker",
        )
        return
    members = f"the group {group.name}: {len(group.owned)} members"
    if group.state != "Stable":
        what = f"{members}, and partitions are moving between them ({group.state})"
        yield warning(what, "look again in a minute; if it goes on, see the workers' logs")
        return
    yield ok(f"{members}, with partitions: {', '.join(_shares(group, wanted))}")
    orphans = sorted(set(wanted) - frozenset().union(*group.owned))
    for topic in sorted({tp.topic for tp in orphans}):
        numbers = [tp.partition for tp in orphans if tp.topic == topic]
        what = f"{topic}: no worker owns partitions {', '.join(map(str, numbers))}"
        yield problem(what, "see the workers' logs; a worker that starts begins a rebalance")


def _shares(group: Group, wanted: Sequence[TopicPartition]) -> Iterator[str]:
    for owned in group.owned:
        yield str(len(owned.intersection(wanted)))


async def _lags(
    admin: AdminClient, settings: Settings, wanted: Sequence[TopicPartition]
) -> Mapping[str, Lags]:
    offsets = await admin.list_consumer_group_offsets(settings.app_id, partitions=list(wanted))
    consumer = AIOKafkaConsumer(
        **settings.kafka.client(),
        enable_auto_commit=False,
        isolation_level="read_uncommitted",
    )
    try:
        await consumer.start()
        starts = await consumer.beginning_offsets(wanted)
        ends = await consumer.end_offsets(wanted)
    finally:
        await consumer.stop()
    lags: dict[str, dict[int, int]] = {}
    for tp in wanted:
        # -1: nothing is committed. Retention may also have removed records since.
        applied = max(offsets[tp].offset if tp in offsets else -1, starts[tp])
        lags.setdefault(tp.topic, {})[tp.partition] = max(ends[tp] - applied, 0)
    return lags


def judge_lag(topic: str, lags: Lags) -> Finding:
    """Return how many records of a topic wait, and in which partitions."""
    behind = {number: lag for number, lag in sorted(lags.items()) if lag}
    if not behind:
        return ok(f"{topic}: nothing waits")
    listed = ", ".join(f"{number}: {lag:,}" for number, lag in list(behind.items())[:MAX_LISTED])
    more = ", …" if len(behind) > MAX_LISTED else ""
    what = f"{topic}: {sum(behind.values()):,} records wait, by partition {listed}{more}"
    if max(behind.values()) <= MANY_RECORDS:
        return ok(what)
    return warning(what, "if it does not shrink: more workers, up to one for each partition")
