"""Checks the topics: settings and replicas."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.config.settings import Settings
from app.domain.errors import RegistryError
from app.kafka.admin_client import AdminClient
from app.kafka.topics import MAX_RECORD_BYTES, TopicSpec, declare, topic_config
from app.ops.doctor.findings import Finding, ok, problem, warning

_MAKE = "make them: python -m app topics apply; a worker does so when it starts"
_SET = "python -m app topics apply sets it; so does a worker when it starts"
_BROKERS = "start the brokers that are away, and see their logs"

_MS_PER_HOUR = 3_600_000

#: Kafka's own topics of committed offsets and of transactions.
FENCE_TOPICS = ("__consumer_offsets", "__transaction_state")

#: A partition in Kafka's metadata.
Partition = Mapping[str, Any]


async def check(admin: AdminClient, settings: Settings) -> Sequence[Finding]:
    """Compare the existing topics with the declared ones."""
    specs = declare(settings).all()
    there = await partitions_by_topic(admin)
    if not any(spec.name in there for spec in specs):
        return [warning("none of the registry's topics is there yet", _MAKE)]
    findings = await _check_fence(admin, there)
    for spec in specs:
        if spec.name not in there:
            findings.append(problem(f"{spec.name} is not there", _MAKE))
            continue
        config = await topic_config(admin, spec.name, inherited=True)
        findings += judge_topic(spec, there[spec.name], config)
    return findings


async def _check_fence(
    admin: AdminClient, there: Mapping[str, Sequence[Partition]]
) -> list[Finding]:
    """Check the topics in which Kafka keeps the fence between workers."""
    findings: list[Finding] = []
    for name in FENCE_TOPICS:
        if name in there:
            try:
                config = await topic_config(admin, name, inherited=True)
            except RegistryError:
                continue  # a hosted Kafka hides them, and manages them itself
            copies = min(len(each["replicas"]) for each in there[name])
            findings += judge_fence(name, copies, int(config["min.insync.replicas"]))
    return findings


def judge_fence(name: str, copies: int, needed: int) -> Iterator[Finding]:
    """Yield whether the loss of one broker can lose a pending commit."""
    if copies > 1 and needed == 1:
        yield problem(
            f"{name}: min.insync.replicas is 1: a broker that is lost may take with it what keeps "
            "two workers from applying the same partition",
            "kafka-configs sets it to 2 for this topic",
        )


async def partitions_by_topic(admin: AdminClient) -> Mapping[str, Sequence[Partition]]:
    """Return the partitions of all topics. A question by name could create a topic."""
    return {each["topic"]: each["partitions"] for each in await admin.describe_topics()}


def judge_topic(
    spec: TopicSpec, partitions: Sequence[Partition], config: Mapping[str, str]
) -> Sequence[Finding]:
    """Return the differences of a topic; one line if there are none."""
    copies = min(len(each["replicas"]) for each in partitions)
    found = [
        *_partitions(spec, len(partitions)),
        *_settings(spec, config),
        *_copies(spec, copies, int(config["min.insync.replicas"])),
        *_health(spec.name, partitions),
    ]
    return found or [
        ok(f"{spec.name}: {len(partitions)} partitions, copies: {copies}, {_kept(config)}")
    ]


def _kept(config: Mapping[str, str]) -> str:
    policy = config["cleanup.policy"]
    if "delete" not in policy:
        return policy
    return f"{policy} after {int(config['retention.ms']) / _MS_PER_HOUR:g} h"


def _partitions(spec: TopicSpec, actual: int) -> Iterator[Finding]:
    if actual != spec.partitions:
        yield problem(
            f"{spec.name} has {actual} partitions, and PARTITIONS is {spec.partitions}",
            f"set PARTITIONS={actual}, if all topics have as many: "
            "the number cannot change once data exists",
        )


def _settings(spec: TopicSpec, config: Mapping[str, str]) -> Iterator[Finding]:
    for name, wanted in spec.unlike(config).items():
        yield problem(f"{spec.name}: {name} is {config.get(name)}, not {wanted}", _SET)
    largest = int(config["max.message.bytes"])
    if "max.message.bytes" not in spec.config and largest < MAX_RECORD_BYTES:
        yield problem(
            f"{spec.name}: max.message.bytes is {largest}, below {MAX_RECORD_BYTES}",
            "raise it, for the topic or on the broker: a worker's batches may be refused",
        )


def _copies(spec: TopicSpec, copies: int, needed: int) -> Iterator[Finding]:
    wanted = spec.replication_factor
    if 0 < wanted != copies:
        yield warning(
            f"{spec.name}: copies are {copies}, and REPLICATION_FACTOR is {wanted}",
            "kafka-reassign-partitions changes how many there are; the setting is for new topics",
        )
    if needed > copies:
        yield problem(
            f"{spec.name}: min.insync.replicas is {needed}, and copies are {copies}: "
            "no write is acknowledged",
            "set min.insync.replicas lower, or make more copies",
        )
    elif copies > 1 and needed == 1:
        yield warning(
            f"{spec.name}: min.insync.replicas is 1: a write may be acknowledged by one broker",
            "set it to 2, for the topic or on the broker, or what that broker loses is lost",
        )


def _health(name: str, partitions: Sequence[Partition]) -> Iterator[Finding]:
    headless = [each["partition"] for each in partitions if each["leader"] < 0]
    if headless:
        yield problem(f"{name}: no broker leads partitions {_listed(headless)}", _BROKERS)
    behind = [each["partition"] for each in partitions if len(each["isr"]) < len(each["replicas"])]
    if behind:
        yield warning(f"{name}: copies of partitions {_listed(behind)} are missing", _BROKERS)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
