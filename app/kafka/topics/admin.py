"""Compares the topics on the brokers with the declaration, and changes them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidPartitionsError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest

from app.config.connection import Connection
from app.config.settings import Settings
from app.domain.errors import KafkaAccessError, TopicsError
from app.kafka.admin_client import AdminClient
from app.kafka.client_errors import missing_right, require_access, unusable
from app.kafka.partitioning import current_partitioning, read
from app.kafka.topics.declaration import TopicSpec, declare
from app.kafka.topics.planning import Action, Found, Step, steps
from app.system import retries

#: How long the brokers may take to answer while topics are checked and created.
ADMIN_TIMEOUT_SECONDS = 15

_LOOK_SECONDS = 0.05

#: Kafka's number for a setting of the topic itself (``ConfigSource`` in kafka-clients).
_OF_THE_TOPIC = 1


async def ensure(settings: Settings) -> None:
    """Create the missing topics; check the others, and change their settings.

    Replicas are not moved: that takes long, and is for `apply`. It waits a while for a broker that
    is just starting. Raises `BrokerUnavailableError` if no broker answers, and `TopicsError` if a
    topic has another number of partitions or cannot be created, or if a restore is not finished.
    """
    async with connected(settings) as admin:
        if (await read(settings)).is_being_restored:
            raise TopicsError(
                "the registry is being restored, or that was not finished: restore it"
            )
        planned = await plan(admin, settings)
        await apply(admin, [step for step in planned if step.action is not Action.MOVE])


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AdminClient]:
    """Yield a connected admin client, for at most `ADMIN_TIMEOUT_SECONDS`.

    Raises `BrokerUnavailableError` if no broker answers, `KafkaAccessError` if they refuse this
    client.
    """
    admin = AdminClient(**settings.kafka.client())
    starting = retries.CONNECTING.attempts(KafkaConnectionError)
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await starting(_start, admin, settings.kafka)
            yield admin
    except (TimeoutError, KafkaError) as error:
        raise unusable(settings.kafka, error) from None
    finally:
        await admin.close()


async def _start(admin: AdminClient, kafka: Connection) -> None:
    await require_access(kafka)
    await admin.start()


async def plan(admin: AdminClient, settings: Settings) -> list[Step]:
    """Return the steps that make the topics as the settings want them."""
    settings = await current_partitioning(settings)
    specs = declare(settings).all()
    present = set(await admin.list_topics())
    names = [spec.name for spec in specs if spec.name in present]
    brokers = sorted(broker["node_id"] for broker in (await admin.describe_cluster())["brokers"])
    found = await _found(admin, names)
    return steps(specs, found, brokers, may_grow=settings.generation > 0)


async def _found(admin: AdminClient, names: Sequence[str]) -> Mapping[str, Found]:
    described = await admin.describe_topics(list(names)) if names else []
    return {
        topic["topic"]: Found(
            [
                each["replicas"]
                for each in sorted(topic["partitions"], key=lambda one: int(one["partition"]))
            ],
            await topic_config(admin, topic["topic"], inherited=False),
        )
        for topic in described
    }


async def topic_config(admin: AdminClient, name: str, *, inherited: bool) -> dict[str, str]:
    """Return the settings of a topic: its own, or with ``inherited`` also the broker's."""
    asked = ConfigResource(ConfigResourceType.TOPIC, name)
    (answer,) = await admin.describe_configs([asked])
    ((code, message, _, _, entries),) = answer.resources
    _require_right(code, "DescribeConfigs", name)
    if code:
        raise TopicsError(f"the settings of topic {name} cannot be read: {message}")
    # Each entry has name, value, whether it is read-only, its source, and whether it is secret.
    return {
        setting: value
        for setting, value, _, source, *_ in entries
        if inherited or source == _OF_THE_TOPIC
    }


def _require_right(code: int, operation: str, name: str) -> None:
    if code == TopicAuthorizationFailedError.errno:
        raise KafkaAccessError(missing_right(operation, "topic", name))


async def apply(admin: AdminClient, planned: Sequence[Step]) -> None:
    """Take all steps of a plan, or none: raises `TopicsError` if a step is a refusal or fails."""
    for step in planned:
        if step.action is Action.REFUSE:
            raise TopicsError(step.change)
    await _create(admin, [step.spec for step in planned if step.action is Action.CREATE])
    for step in planned:
        if step.action is Action.GROW:
            await _grow(admin, step.spec)
        if step.config is not None:
            await _alter(admin, step.spec.name, step.config)
        if step.replicas is not None:
            await _move(admin, step.spec.name, step.replicas)


async def _alter(admin: AdminClient, name: str, config: Mapping[str, str]) -> None:
    resource = ConfigResource(ConfigResourceType.TOPIC, name, dict(config))
    for answer in await admin.alter_configs([resource]):
        for code, message, *_ in answer.resources:
            _require_right(code, "AlterConfigs", name)
            if code:
                raise TopicsError(f"topic {name} cannot be altered: {message}")


async def _move(admin: AdminClient, name: str, replicas: Sequence[Sequence[int]]) -> None:
    """Begin to move replicas to other brokers. Kafka continues by itself."""
    partitions: list[Any] = [(number, list(brokers), {}) for number, brokers in enumerate(replicas)]
    request = AlterPartitionReassignmentsRequest(
        ADMIN_TIMEOUT_SECONDS * 1000, [(name, partitions, {})], {}
    )
    answer = await admin._send_to_controller(request)
    told = [(answer.error_code, answer.error_message)]
    told += [(code, why) for _, of, *_ in answer.responses for _, code, why, *_ in of]
    for code, why in told:
        if code:
            raise TopicsError(f"topic {name} cannot be moved: {why or for_code(code).__name__}")


async def _grow(admin: AdminClient, spec: TopicSpec) -> None:
    """Add partitions. Another worker may have added them already."""
    with suppress(InvalidPartitionsError):
        await admin.create_partitions({spec.name: NewPartitions(spec.partitions)})


async def _create(admin: AdminClient, specs: Sequence[TopicSpec]) -> None:
    if not specs:
        return
    answer = await admin.create_topics([_new_topic(spec) for spec in specs])
    for name, code, *message in answer.topic_errors:
        _raise_unless_made(name, for_code(code), message)


async def remake(admin: AdminClient, specs: Sequence[TopicSpec]) -> None:
    """Create empty topics in place of existing ones."""
    names = [spec.name for spec in specs]
    await delete(admin, names)
    await _create(admin, specs)
    await _until(admin, lambda present: present >= set(names))


async def delete(admin: AdminClient, names: Sequence[str]) -> None:
    """Delete topics that exist, and wait until they are gone."""
    there = sorted(set(names) & set(await admin.list_topics()))
    if not there:
        return
    answer = await admin.delete_topics(there)
    for name, code in answer.topic_error_codes:
        _require_right(code, "Delete", name)
    await _until(admin, lambda present: not present & set(names))


async def _until(admin: AdminClient, are_as_wanted: Callable[[AbstractSet[str]], bool]) -> None:
    while not are_as_wanted(set(await admin.list_topics())):
        await asyncio.sleep(_LOOK_SECONDS)


def _new_topic(spec: TopicSpec) -> NewTopic:
    # With an empty assignment, aiokafka sends -1: the broker's default.
    assignments: dict[int, list[int]] | None = None if spec.replication_factor > 0 else {}
    return NewTopic(
        spec.name, spec.partitions, spec.replication_factor, assignments, dict(spec.config)
    )


def _raise_unless_made(name: str, error: type[KafkaError], message: Sequence[str]) -> None:
    # Another worker may have created it already.
    _require_right(error.errno, "Create", name)
    if error.errno not in (0, 36):
        raise TopicsError(f"topic {name} cannot be made: {error.__name__} {' '.join(message)}")
