"""What a node is told: Java's options, its environment and Kafka's server properties."""

import base64
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.system.environment import handed_down
from local.machine import HOST

LOG_CONFIGURATION = Path(__file__).with_name("log4j2.xml")
JVM_OPTIONS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    # A broker without memory is of no use; ended, it is started again.
    "-XX:+ExitOnOutOfMemoryError",
    f"-Dlog4j2.configurationFile={LOG_CONFIGURATION}",
)


@dataclass(frozen=True, slots=True)
class Membership:
    """Which node of which cluster a broker is, and on which ports the nodes' controllers listen."""

    node_id: int
    controllers: Mapping[int, int]
    cluster_id: str

    @property
    def replicas(self) -> int:
        """How many nodes hold each record."""
        return min(len(self.controllers), 3)

    @property
    def min_in_sync(self) -> int:
        """How many nodes must hold a record before it is acknowledged: one may be away."""
        return max(self.replicas - 1, 1)


def node_properties(port: int, member: Membership) -> dict[str, str]:
    """Return the server's settings: a node that is broker and controller at once.

    The storage is named relative to the data folder, in which the broker is started: so the
    folder may be moved, and its path may hold any character.
    """
    controller_port = member.controllers[member.node_id]
    voters = (f"{number}@{HOST}:{at}" for number, at in member.controllers.items())
    return {
        "process.roles": "broker,controller",
        "node.id": str(member.node_id),
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": ",".join(voters),
        "log.dirs": "storage",
        "auto.create.topics.enable": "false",
        # Fewer than Kafka's 50, which spread load over brokers and make one start slower.
        "offsets.topic.num.partitions": "4",
        "default.replication.factor": str(member.replicas),
        "min.insync.replicas": str(member.min_in_sync),
        "offsets.topic.replication.factor": str(member.replicas),
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": str(member.replicas),
        "transaction.state.log.min.isr": str(member.min_in_sync),
        "group.initial.rebalance.delay.ms": "0",
        # After a crash, the controller takes the broker back only once its old session is over.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
    }


def new_cluster_id() -> str:
    """Return an id as Kafka writes them: 16 random bytes in URL-safe base64, without padding."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def java_environment() -> dict[str, str]:
    """Return the environment for Java: in UTF-8, so that the data folder may have any name."""
    return {**handed_down(), "LC_ALL": "C.UTF-8"}
