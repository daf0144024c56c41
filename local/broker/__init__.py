"""The broker manager: Kafka nodes in a data folder of their own, reachable from here only.

The supervisor and the tests use `Broker`, one node, and `Cluster`, several; ``python -m
local.broker`` is the same as a command.
"""

from local.broker.cluster import Cluster, nodes_in
from local.broker.node import Broker

__all__ = ["Broker", "Cluster", "nodes_in"]
