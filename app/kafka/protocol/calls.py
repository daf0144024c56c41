"""A request in the form that connections of aiokafka take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.protocol.api import RequestStruct

from app.domain.errors import KafkaAccessError


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a known version, in the form that connections of aiokafka take."""

    struct: type[RequestStruct]
    arguments: tuple[Any, ...]

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> RequestStruct:
        """Return the request; raise `KafkaAccessError` if the broker does not know it."""
        first, last = versions.get(self.struct.API_KEY, (0, -1))
        if not first <= self.struct.API_VERSION <= last:
            raise KafkaAccessError(
                f"KAFKA_BROKERS: a broker does not know {self.struct.__name__.strip('_')}: "
                "Kafka 3.1 or newer is needed"
            )
        return self.struct(*self.arguments)
