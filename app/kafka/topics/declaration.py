"""Declares every topic: name, partitions, replicas, retention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from app.config.settings import Settings

#: Kafka's default for the largest record batch, and the size of a dead letter beside it.
MAX_RECORD_BYTES = 1_048_588
MAX_DEAD_LETTER_BYTES = 2 * MAX_RECORD_BYTES

#: How long a changelog keeps the tombstone of a deleted row after compaction. A store that is away
#: for longer would keep the row.
CHANGELOG_DELETE_RETENTION_HOURS = 7 * 24

_MS_PER_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be. All topics but that of the partitioning have the same partitions.

    A replication factor of -1 is the brokers' default.
    """

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)

    def unlike(self, config: Mapping[str, str]) -> Mapping[str, str]:
        """Return the settings that a topic should have and does not have."""
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
    partitioning: TopicSpec

    def all(self) -> Sequence[TopicSpec]:
        """Return every topic, in the order of the flow."""
        return tuple(getattr(self, declared.name) for declared in fields(self))


def declare(settings: Settings) -> Topics:
    """Return the topics that the settings ask for."""
    kept = {"retention.ms": str(settings.retention_hours * _MS_PER_HOUR)}
    # A segment is full and compacted within two thirds. The last third is for the cleaner and for
    # us.
    third = str(settings.erase_within_hours * _MS_PER_HOUR // 3)
    compacted = {
        "delete.retention.ms": str(CHANGELOG_DELETE_RETENTION_HOURS * _MS_PER_HOUR),
        "max.compaction.lag.ms": third,
        "segment.ms": third,
    }

    in_sync = settings.min_insync_replicas
    copies = {} if in_sync is None else {"min.insync.replicas": str(in_sync)}

    # Another generation has other partitions, so a reader of one changelog must never see the
    # other.
    generation = f"-g{settings.generation}" if settings.generation else ""

    def spec(
        name: str, policy: str, config: Mapping[str, str], partitions: int = settings.partitions
    ) -> TopicSpec:
        return TopicSpec(
            f"{settings.topic_prefix}{name}",
            partitions,
            settings.replication_factor or -1,
            {"cleanup.policy": policy, **config, **copies},
        )

    return Topics(
        user_registrations=spec("user-registrations", "delete", kept),
        # Its name has the app id, as changelogs do: two apps must not mix their attempts.
        email_claims=spec(f"{settings.app_id}-email-claims", "delete", kept),
        email_decisions=spec(f"{settings.app_id}-email-decisions", "delete", kept),
        registration_outcomes=spec("registration-outcomes", "delete", kept),
        # It is compacted, too, so that the letters of an erased user are replaced.
        dead_letter=spec(
            "user-registrations-dead-letter",
            "compact,delete",
            kept | compacted | {"max.message.bytes": str(MAX_DEAD_LETTER_BYTES)},
        ),
        users_changelog=spec(
            f"{settings.app_id}-users-changelog{generation}", "compact", compacted
        ),
        emails_changelog=spec(
            f"{settings.app_id}-emails-changelog{generation}", "compact", compacted
        ),
        partitioning=spec(f"{settings.app_id}-partitioning", "compact", {}, partitions=1),
    )
