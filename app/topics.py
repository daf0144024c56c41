"""Every topic, in one place: its name, its partitions, how long it is kept; and its making."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, for_code
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from app.errors import BrokerUnavailableError, TopicsError
from app.settings import Settings

#: How long the broker may take to answer while topics are looked at and made.
ADMIN_TIMEOUT_SECONDS = 15

#: Kafka's default for the largest record batch, and what a dead letter may take beside it.
MAX_RECORD_BYTES = 1_048_588
MAX_DEAD_LETTER_BYTES = 2 * MAX_RECORD_BYTES

#: How long a changelog keeps the mark of a deleted row after it was compacted: a store that was
#: away for longer would keep the row.
CHANGELOG_DELETE_RETENTION_HOURS = 7 * 24

_MS_PER_HOUR = 3_600_000

#: Where Kafka says a setting comes from: the topic itself (``ConfigSource`` in kafka-clients).
_OF_THE_TOPIC = 1


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be; every topic of ours has the same number of partitions."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)

    def unlike(self, config: Mapping[str, str]) -> Mapping[str, str]:
        """Return what a topic's settings should be where they are not."""
        return {name: value for name, value in self.config.items() if config.get(name) != value}


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one registry."""

    user_registrations: TopicSpec
    email_claims: TopicSpec
    email_decisions: TopicSpec
    registration_outcomes: TopicSpec
    dead_letter: TopicSpec
    users_changelog: TopicSpec
    emails_changelog: TopicSpec

    def all(self) -> Sequence[TopicSpec]:
        """Return every topic, in the order of the flow."""
        return tuple(getattr(self, declared.name) for declared in fields(self))


def declare(settings: Settings) -> Topics:
    """Return the topics that the settings ask for."""
    kept = {"retention.ms": str(settings.retention_hours * _MS_PER_HOUR)}
    # A segment is full, and compacted, within two thirds: the rest is for the cleaner and us.
    third = str(settings.erase_within_hours * _MS_PER_HOUR // 3)
    compacted = {
        "delete.retention.ms": str(CHANGELOG_DELETE_RETENTION_HOURS * _MS_PER_HOUR),
        "max.compaction.lag.ms": third,
        "segment.ms": third,
    }

    def spec(name: str, policy: str, config: Mapping[str, str]) -> TopicSpec:
        return TopicSpec(
            f"{settings.topic_prefix}{name}",
            settings.partitions,
            settings.replication_factor or -1,
            {"cleanup.policy": policy, **config},
        )

    return Topics(
        user_registrations=spec("user-registrations", "delete", kept),
        # The app's own, as changelogs are: another app's attempts would not be told from its own.
        email_claims=spec(f"{settings.app_id}-email-claims", "delete", kept),
        email_decisions=spec(f"{settings.app_id}-email-decisions", "delete", kept),
        registration_outcomes=spec("registration-outcomes", "delete", kept),
        # Compacted, too: what an erased user left there is overwritten.
        dead_letter=spec(
            "user-registrations-dead-letter",
            "compact,delete",
            kept | compacted | {"max.message.bytes": str(MAX_DEAD_LETTER_BYTES)},
        ),
        users_changelog=spec(f"{settings.app_id}-users-changelog", "compact", compacted),
        emails_changelog=spec(f"{settings.app_id}-emails-changelog", "compact", compacted),
    )


async def ensure(settings: Settings) -> None:
    """Create the topics that are missing; check, and alter to match, those that are there.

    Waits a while for a broker that is just starting. Raises `BrokerUnavailableError` where none
    answers, `TopicsError` where a topic has another number of partitions or cannot be made.
    """
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await _connect_and_ensure(settings)
    except (TimeoutError, KafkaError) as error:
        raise BrokerUnavailableError(
            f"KAFKA_BROKERS: no usable answer from {settings.kafka_brokers} ({_cause(error)})"
        ) from None


@retry(
    retry=retry_if_exception_type(KafkaConnectionError),
    wait=wait_exponential_jitter(multiplier=0.1, max=1),
    stop=stop_after_delay(ADMIN_TIMEOUT_SECONDS - 1),
    reraise=True,
)
async def _connect_and_ensure(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_brokers)
    try:
        await admin.start()
        await _ensure(admin, declare(settings).all())
    finally:
        await admin.close()


def _cause(error: Exception) -> str:
    return type(error).__name__


async def _ensure(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> None:
    present = set(await admin.list_topics())
    there = [spec for spec in specs if spec.name in present]
    await _check_partitions(admin, there)
    await _alter(admin, there)
    await _create(admin, [spec for spec in specs if spec.name not in present])


async def _check_partitions(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> None:
    described = await admin.describe_topics([spec.name for spec in specs]) if specs else []
    actual = {topic["topic"]: len(topic["partitions"]) for topic in described}
    for spec in specs:
        if actual[spec.name] != spec.partitions:
            raise TopicsError(
                f"PARTITIONS: topic {spec.name} has {actual[spec.name]} partitions and the "
                f"setting is {spec.partitions}; the number cannot change once data exists"
            )


async def _alter(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> None:
    """Give topics the settings that they should have; those that we say nothing of stay."""
    for spec in specs:
        own = await topic_config(admin, spec.name, inherited=False)
        if changes := spec.unlike(own):
            resource = ConfigResource(ConfigResourceType.TOPIC, spec.name, {**own, **changes})
            for answer in await admin.alter_configs([resource]):
                for code, message, *_ in answer.resources:
                    if code:
                        raise TopicsError(f"topic {spec.name} cannot be altered: {message}")


async def topic_config(admin: AIOKafkaAdminClient, name: str, *, inherited: bool) -> dict[str, str]:
    """Return the settings of a topic: its own, or also those that are the broker's."""
    asked = ConfigResource(ConfigResourceType.TOPIC, name)
    (answer,) = await admin.describe_configs([asked])
    ((code, message, _, _, entries),) = answer.resources
    if code:
        raise TopicsError(f"the settings of topic {name} cannot be read: {message}")
    # Of each: name, value, whether it is read-only, where it comes from, whether it is a secret.
    return {
        setting: value
        for setting, value, _, source, *_ in entries
        if inherited or source == _OF_THE_TOPIC
    }


async def _create(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> None:
    if not specs:
        return
    answer = await admin.create_topics([_new_topic(spec) for spec in specs])
    for name, code, *message in answer.topic_errors:
        _raise_unless_made(name, for_code(code), message)


def _new_topic(spec: TopicSpec) -> NewTopic:
    # The empty assignment is how aiokafka lets -1, the broker's default, through.
    assignments: dict[int, list[int]] | None = None if spec.replication_factor > 0 else {}
    return NewTopic(
        spec.name, spec.partitions, spec.replication_factor, assignments, dict(spec.config)
    )


def _raise_unless_made(name: str, error: type[KafkaError], message: Sequence[str]) -> None:
    # Another worker may have been quicker: that is as good.
    if error.errno not in (0, 36):
        raise TopicsError(f"topic {name} cannot be made: {error.__name__} {' '.join(message)}")
