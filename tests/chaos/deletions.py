"""Deletions: records go that all have applied, as retention takes them; nobody may notice.

The checks need them: of the registrations they are read before.
"""

import random

from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.chaos.topics import reading
from tests.support import kafka
from tests.support.worker import Registry

DELETED_WITHIN_SECONDS = 30.0


class Deletions:
    """Deletes what is applied of a partition in all sources, and keeps the registrations."""

    def __init__(self, registry: Registry, partitions: int, seed: int) -> None:
        #: By partition and offset.
        self.kept: dict[tuple[int, int], Message] = {}
        self._registry = registry
        self._left = list(range(partitions))
        random.Random(seed).shuffle(self._left)

    def delete(self) -> None:
        """Delete from another partition each time; `verify` knows nothing of its users any more."""
        partition = self._left.pop()
        brokers, group = self._registry.brokers, self._registry.app_id
        applied = {
            topic: kafka.committed(brokers, group, topic).get(partition, 0)
            for topic in self._registry.sources
        }
        self._keep(partition, applied[self._registry.registrations])
        wanted = [TopicPartition(topic, partition, end) for topic, end in applied.items()]
        admin = AdminClient({"bootstrap.servers": brokers})
        for deleted in admin.delete_records(wanted).values():
            deleted.result(timeout=DELETED_WITHIN_SECONDS)

    def _keep(self, partition: int, end: int) -> None:
        with reading(self._registry.brokers, self._registry.registrations, [partition]) as reader:
            for message in reader.to_the_end():
                if (place := kafka.place(message)) < (partition, end):
                    self.kept[place] = message
