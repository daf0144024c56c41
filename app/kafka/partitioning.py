"""The partitioning of a registry, kept in a topic of its own.

And what all of its workers must agree on: the secret that addresses are known by.

One record, replaced as a whole. Whoever writes it is fenced, as the owners of partitions are: of
two that would change it, the first one fails.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import BaseModel, ConfigDict, ValidationError

from app.config.connection import Connection
from app.config.settings import Settings
from app.domain.errors import SettingsError, TopicsError
from app.kafka.client_errors import require_access, unusable
from app.kafka.transactional_ids import command_id
from app.kafka.transactions import FencedProducer

#: The key of the one record.
_KEY = b"partitioning"

#: Raised when older versions must not go on with what a newer one has written.
FORMAT = 1

TIMEOUT_SECONDS = 15.0
POLL_MS = 100


class Step(StrEnum):
    """How far a change is, as workers need to know it."""

    #: Rows are copied; workers do as ever.
    COPYING = "copying"
    #: Workers refuse writes.
    HOLDING = "holding"
    #: And they apply registrations up to an end, and all that comes of them.
    DRAINING = "draining"
    #: Nothing is there yet, or not all: workers do not start.
    RESTORING = "restoring"


class Change(BaseModel):
    """A change that is under way."""

    model_config = ConfigDict(frozen=True)

    #: How many partitions there shall be; as many as there are while a backup is made.
    partitions: int
    step: Step = Step.COPYING
    #: Of each partition of ``user-registrations``: where it ends for now (draining).
    ends: tuple[int, ...] = ()


class Split(BaseModel):
    """What was split: how many partitions there were, and where each of a topic ended then.

    Records below that were decided with so many partitions, all others with more.
    """

    model_config = ConfigDict(frozen=True)

    partitions: int
    ends: Mapping[str, tuple[int, ...]]


class Partitioning(BaseModel):
    """How a registry is partitioned."""

    model_config = ConfigDict(frozen=True)

    #: Of the record, see `FORMAT`.
    format: int = FORMAT
    #: How often it was changed: each time, the tables got other changelogs.
    generation: int = 0
    partitions: int
    #: The fingerprint of the EMAIL_SECRET that the registry began with; none before version 0.9.
    secret: str | None = None
    #: The oldest first.
    splits: tuple[Split, ...] = ()
    change: Change | None = None

    @property
    def is_being_restored(self) -> bool:
        """Whether a restore has begun, and is not finished."""
        return self.change is not None and self.change.step is Step.RESTORING

    def changing(self, change: Change | None) -> "Partitioning":
        """Return the same with a change under way, or with none."""
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
        """Return settings with the partitions that the registry has, if it was repartitioned.

        If it was not, PARTITIONS must be right, and is compared with the topics.
        """
        if not self.generation:
            return settings
        return settings.partitioned(self.partitions, self.generation)

    def require_no_change(self) -> None:
        """Raise `TopicsError` if a change is under way, or was begun and never ended."""
        if self.change is not None:
            raise TopicsError(
                "the registry is being repartitioned or saved; if that is no more: "
                "python -m app repartition --back"
            )

    def with_secret(self, settings: Settings) -> "Partitioning":
        """Return the same with the secret that the registry begins with."""
        return self.model_copy(update={"secret": settings.email_keys.fingerprint()})

    def require_secret(self, settings: Settings) -> None:
        """Raise `SettingsError` if the registry began with another secret than these settings."""
        if self.secret not in (None, settings.email_keys.fingerprint()):
            raise other_secret()


def other_secret() -> SettingsError:
    """Return what is to be said of a secret that is not the registry's."""
    return SettingsError(
        "EMAIL_SECRET: the registry began with another one; all workers and commands need that"
    )


def topic_name(settings: Settings) -> str:
    """Return the name of the topic that says how a registry is partitioned."""
    return f"{settings.topic_prefix}{settings.app_id}-partitioning"


async def current_partitioning(settings: Settings) -> Settings:
    """Return the settings with the partitions that the registry has; see `read`.

    Raises `SettingsError` if the registry began with another secret.
    """
    found = await read(settings)
    found.require_secret(settings)
    return found.of(settings)


async def read(settings: Settings) -> Partitioning:
    """Return how the registry is partitioned: as the settings want, if nothing says otherwise.

    Raises `BrokerUnavailableError` where no broker answers, `KafkaAccessError` where they refuse
    us, `TopicsError` if a newer version has written what is there.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await require_access(settings.kafka)
            async with _consumer(settings.kafka) as consumer:
                if topic_name(settings) not in await consumer.topics():
                    return Partitioning(partitions=settings.partitions)
                found = await _newest(consumer, topic_name(settings))
    except (TimeoutError, KafkaError) as error:
        raise unusable(settings.kafka, error) from None
    return found or Partitioning(partitions=settings.partitions)


async def changes(settings: Settings) -> AsyncIterator[Partitioning]:
    """Yield how the registry is partitioned, now and whenever that changes, without end."""
    async with _consumer(settings.kafka) as consumer:
        tp = TopicPartition(topic_name(settings), 0)
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        while True:
            for records in (await consumer.getmany(tp, timeout_ms=POLL_MS)).values():
                yield _decoded(records[-1].value)


@asynccontextmanager
async def _consumer(connection: Connection) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **connection.client(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


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
    """Writes how a registry is partitioned, until somebody else does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = FencedProducer(
            settings.kafka, command_id(settings.app_id, "partitioning"), [topic_name(settings)]
        )

    async def start(self) -> Partitioning:
        """Fence earlier writers; return the partitioning as it is then."""
        await self._producer.start()
        return await read(self._settings)

    async def write(self, partitioning: Partitioning) -> None:
        """Let this stand from now on; raise `FencedError` if somebody else has started since."""
        row = partitioning.model_dump_json(exclude_none=True).encode()
        await self._producer.commit(topic_name(self._settings), 0, {_KEY: row})

    async def close(self) -> None:
        """Disconnect."""
        await self._producer.close()
