"""What a node is told: Java's options, its environment and Kafka's server properties."""

import base64
import os
import uuid
from pathlib import Path

from local.machine import HOST

LOG_CONFIGURATION = Path(__file__).with_name("log4j2.xml")
JVM_OPTIONS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    # A broker without memory is of no use; ended, it is started again.
    "-XX:+ExitOnOutOfMemoryError",
    f"-Dlog4j2.configurationFile={LOG_CONFIGURATION}",
)


def node_properties(port: int, controller_port: int) -> dict[str, str]:
    """Return the server's settings: one node that is its own controller, without replicas.

    The storage is named relative to the data folder, in which the broker is started: so the
    folder may be moved, and its path may hold any character.
    """
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "log.dirs": "storage",
        "auto.create.topics.enable": "false",
        # Fewer than Kafka's 50, which spread load over brokers and make one start slower.
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
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
    return {**os.environ, "LC_ALL": "C.UTF-8"}
