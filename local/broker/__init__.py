"""The broker manager: one Kafka node in a data folder of its own, reachable from here only.

The supervisor and the tests use `Broker`; ``python -m local.broker`` is the same as a command.
"""

from local.broker.node import Broker

__all__ = ["Broker"]
