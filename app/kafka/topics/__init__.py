"""The topics: declaration, plan, and changes on the brokers."""

from app.kafka.topics.admin import (
    ADMIN_TIMEOUT_SECONDS,
    connected,
    delete,
    ensure,
    remake,
    topic_config,
)
from app.kafka.topics.declaration import (
    CHANGELOG_DELETE_RETENTION_HOURS,
    MAX_DEAD_LETTER_BYTES,
    MAX_RECORD_BYTES,
    Topics,
    TopicSpec,
    declare,
)

__all__ = [
    "ADMIN_TIMEOUT_SECONDS",
    "CHANGELOG_DELETE_RETENTION_HOURS",
    "MAX_DEAD_LETTER_BYTES",
    "MAX_RECORD_BYTES",
    "TopicSpec",
    "Topics",
    "connected",
    "declare",
    "delete",
    "ensure",
    "remake",
    "topic_config",
]
