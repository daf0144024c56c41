"""An admin client for clusters that are new, or whose coordinators move."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
    for_code,
)

from app.system import retries

#: The answers of a coordinator that is being created, loads its groups, or has just moved.
_SOON_THERE = (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)


@dataclass(frozen=True, slots=True)
class Group:
    """A group, as its coordinator describes it, with the partitions of each member."""

    name: str
    state: str
    owned: Sequence[frozenset[TopicPartition]]


class AdminClient(AIOKafkaAdminClient):  # type: ignore[misc]  # aiokafka carries no types
    """aiokafka's admin client. It waits a while for a coordinator that is not there yet."""

    async def find_coordinator(self, group_id: str, coordinator_type: int = 0) -> int:
        """Return the broker that coordinates a group. A new cluster creates its topic first."""
        asking = retries.COORDINATOR.attempts(_SOON_THERE)
        return cast(int, await asking(super().find_coordinator, group_id, coordinator_type))

    async def group(self, name: str) -> Group:
        """Return a group. One that does not exist has no members.

        Raises `KafkaError` if its coordinator does not tell in time, or refuses to.
        """
        return await retries.COORDINATOR.attempts(_SOON_THERE)(self._group, name)

    async def _group(self, name: str) -> Group:
        (answer,) = await self.describe_consumer_groups([name])
        (told,) = answer.to_object()["groups"]
        if told["error_code"]:
            raise for_code(told["error_code"])(name)
        assigned = [member["member_assignment"] for member in told["members"]]
        return Group(name, told["state"], list(map(_owned, assigned)))


def _owned(assignment: bytes) -> frozenset[TopicPartition]:
    # The assignment is empty until the leader has made one.
    if not assignment:
        return frozenset()
    return frozenset(ConsumerProtocolMemberAssignment.decode(assignment).partitions())
