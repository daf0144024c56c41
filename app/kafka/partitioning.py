"""The partitioning of a registry, kept in its own topic.

The same record has what all workers must agree on: the fingerprint of the secret for addresses. It
is one record, replaced as a whole. Writers fence each other, as owners of partitions do: if two
writers change it, the earlier one fails.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import BaseModel, ConfigDict, ValidationError

from app.config.settings import Settings
from app.domain.errors import SettingsError, TopicsError
from app.kafka.client_errors import require_access, unusable
from app.kafka.committed_reader import committed_reader
from app.kafka.transactional_ids import command_id
from app.kafka.transactions import FencedProducer

#: The key of the one record.
_KEY = b"partitioning"

#: Raised when older versions must not continue with the record of a newer version.
FORMAT = 1

TIMEOUT_SECONDS = 15.0
POLL_MS = 100


class Step(StrEnum):
    """The step of a change, as workers need to know it."""

    #: Rows are copied. Workers do their usual work.
    COPYING = "copying"
    #: Workers refuse writes.
    HOLDING = "holding"
    #: Workers also apply registrations up to an end, and all claims and verdicts that follow.
    DRAINING = "draining"
    #: A restore is under way. Workers do not start.
    RESTORING = "restoring"


class Change(BaseModel):
    """A change that is under way."""

    model_config = ConfigDict(frozen=True)

    #: The new number of partitions; the present one while a backup is made.
    partitions: int
    step: Step = Step.COPYING
    #: Where each partition of ``user-registrations`` ends for now (draining).
    ends: tuple[int, ...] = ()


class Split(BaseModel):
    """A split: the number of partitions before, and where each partition of a topic ended then.

    Records below were decided with that number of partitions, later ones with more.
    """

    model_config = ConfigDict(frozen=True)

    partitions: int
    ends: Mapping[str, tuple[int, ...]]


class Partitioning(BaseModel):
    """How a registry is partitioned."""

    model_config = ConfigDict(frozen=True)

    #: The format of the record, see `FORMAT`.
    format: int = FORMAT
    #: How often the partitions were changed. Each change has new changelogs.
    generation: int = 0
    partitions: int
    #: The fingerprint of the EMAIL_SECRET of the registry; None before version 0.9.
    secret: str | None = None
    #: The oldest first.
    splits: tuple[Split, ...] = ()
    change: Change | None = None

    @property
    def is_being_restored(self) -> bool:
        """Whether a restore has begun, and is not finished."""
        return self.change is not None and self.change.step is Step.RESTORING

    def changing(self, change: Change | None) -> "Partitioning":
        """Return a copy with a change under way, or with none."""
        return self.model_copy(update={"change": change})

    def split(self, partitions: int, ends: Mapping[str, Sequence[int]]) -> "Partitioning":
        """Return the next generation, with more partitions."""
        split = Split(partitions=self.partitions, ends={t: tuple(of) for t, of in ends.items()})
        return Partitioning(
            generation=self.generation + 1,
            partitions=partitions,
            secret=self.secret,
            splits=(*self.splits, split),
        )

    def of(self, settings: Settings) -> Settings:
        """Return settings with the partitions of the registry, if it was repartitioned.

        If it was not, PARTITIONS must be right, and is compared with the topics.
        """
        if not self.generation:
            return settings
        return settings.partitioned(self.partitions, self.generation)

    def require_no_change(self) -> None:
        """Raise `TopicsError` if a change is under way, or was never ended."""
        if self.change is not None:
            raise TopicsError(
                "the registry is being repartitioned or saved; if that is no more: "
                "python -m app repartition --back"
            )

    def with_secret(self, settings: Settings) -> "Partitioning":
        """Return a copy with the secret that the registry begins with."""
        return self.model_copy(update={"secret": settings.email_keys.fingerprint()})

    def require_secret(self, settings: Settings) -> None:
        """Raise `SettingsError` if the registry began with another secret."""
        if self.secret not in (None, settings.email_keys.fingerprint()):
            raise other_secret()


def other_secret() -> SettingsError:
    """Return the error for a secret that is not the registry's."""
    return SettingsError(
        "EMAIL_SECRET: the registry began with another one; all workers and commands need that"
    )


def topic_name(settings: Settings) -> str:
    """Return the name of the topic with the partitioning of a registry."""
    return f"{settings.topic_prefix}{settings.app_id}-partitioning"


async def current_partitioning(settings: Settings) -> Settings:
    """Return the settings with the partitions of the registry; see `read`.

    Raises `SettingsError` if the registry began with another secret.
    """
    found = await read(settings)
    found.require_secret(settings)
    return found.of(settings)


async def read(settings: Settings) -> Partitioning:
    """Return the partitioning; that of the settings if the topic has none.

    Raises `BrokerUnavailableError` if no broker answers, `KafkaAccessError` if it refuses this
    client, and `TopicsError` if a newer version has written the record.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await require_access(settings.kafka)
            async with committed_reader(settings.kafka, beyond="earliest") as consumer:
                if topic_name(settings) not in await consumer.topics():
                    return Partitioning(partitions=settings.partitions)
                found = await _newest(consumer, topic_name(settings))
    except (TimeoutError, KafkaError) as error:
        raise unusable(settings.kafka, error) from None
    return found or Partitioning(partitions=settings.partitions)


async def changes(settings: Settings) -> AsyncIterator[Partitioning]:
    """Yield the partitioning now, and after each change, without end."""
    async with committed_reader(settings.kafka, beyond="earliest") as consumer:
        tp = TopicPartition(topic_name(settings), 0)
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        while True:
            for records in (await consumer.getmany(tp, timeout_ms=POLL_MS)).values():
                yield _decoded(records[-1].value)


async def _newest(consumer: AIOKafkaConsumer, topic: str) -> Partitioning | None:
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    end = (await consumer.end_offsets([tp]))[tp]
    await consumer.seek_to_beginning(tp)
    found = None
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(tp, timeout_ms=POLL_MS)).values():
            found = records[-1].value
    return None if found is None else _decoded(found)


def _decoded(value: bytes) -> Partitioning:
    try:
        found = Partitioning.model_validate_json(value)
    except ValidationError:
        raise TopicsError("how the registry is partitioned cannot be read") from None
    if found.format > FORMAT:
        raise TopicsError(
            f"how the registry is partitioned was written by a newer version (format "
            f"{found.format}, this one reads up to {FORMAT}): use that version"
        )
    return found


class Register:
    """Writes the partitioning, until another writer fences it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = FencedProducer(
            settings.kafka, command_id(settings.app_id, "partitioning"), [topic_name(settings)]
        )

    async def start(self) -> Partitioning:
        """Fence earlier writers; return the partitioning after that."""
        await self._producer.start()
        return await read(self._settings)

    async def write(self, partitioning: Partitioning) -> None:
        """Write the partitioning; raise `FencedError` if another writer has started since."""
        row = partitioning.model_dump_json(exclude_none=True).encode()
        await self._producer.commit(topic_name(self._settings), 0, {_KEY: row})

    async def close(self) -> None:
        """Disconnect."""
        await self._producer.close()
