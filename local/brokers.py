"""The Kafka that a run uses: one that it brings, or one that was named."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from app.config.connection import Connection
from app.kafka.client_errors import why_refused
from local.broker import Broker, Cluster, nodes_in
from local.console import say
from local.errors import BrokerError, DataFolderError
from local.folder import DataFolder
from local.keeper import Service
from local.places import named
from local.probe import kafka_answers
from local.settings import LocalSettings

ANSWER_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.25


class Brokers(Protocol):
    """What the supervisor asks of a Kafka; the manager's `OwnBroker` and `NamedBrokers` have it."""

    @property
    def address(self) -> str:
        """``host:port[,…]``, for clients."""

    def launch(self) -> object:
        """Have it answer; raises `LocalError`."""

    def services(self) -> Sequence[Service]:
        """Return what is to be kept running."""

    def stop(self) -> object:
        """Stop it if it was ours to start."""


@dataclass(frozen=True)
class Node:
    """A broker of ours, to be kept running."""

    broker: Broker
    name: str

    def launch(self) -> bool:
        """Start it, or take over the one that runs."""
        say(f"Starting {self.name} ...")
        return self.broker.start()

    def ending(self) -> str | None:
        """Return how it ended, as words; None while it runs."""
        return self.broker.ending()


class OwnBroker(Broker):
    """The broker in the data folder."""

    def launch(self) -> bool:
        """Start it, or take over the one that runs."""
        return self._node.launch()

    def services(self) -> Sequence[Service]:
        """Return the broker."""
        return [self._node]

    @property
    def _node(self) -> Node:
        return Node(self, "the broker")


class OwnCluster(Cluster):
    """The brokers in the data folder."""

    def launch(self) -> bool:
        """Start them, or take over those that run."""
        say("Starting the brokers ...")
        return self.start()

    def services(self) -> Sequence[Service]:
        """Return each broker: the others go on while one is started again."""
        return [Node(node, f"broker {number}") for number, node in enumerate(self.nodes, start=1)]


class NamedBrokers:
    """Brokers that somebody else runs: asked once, then left alone."""

    def __init__(self, connection: Connection) -> None:
        self.address = connection.brokers
        self._connection = connection

    def launch(self) -> None:
        """Wait a little for an answer; raises `BrokerError`."""
        say(f"Asking Kafka at {self.address} ...")
        attempts = Retrying(
            retry=retry_if_result(lambda answers: not answers),
            stop=stop_after_delay(ANSWER_TIMEOUT_SECONDS),
            wait=wait_fixed(POLL_SECONDS),
        )
        try:
            attempts(kafka_answers, self._connection)
        except RetryError:
            if told := asyncio.run(why_refused(self._connection)):
                raise BrokerError(told) from None
            raise BrokerError(
                f"KAFKA_BROKERS: no Kafka answers at {self.address}: start it, or unset the "
                f"setting and {named('run')} brings a broker"
            ) from None

    def services(self) -> Sequence[Service]:
        """Return nothing: the workers notice for themselves."""
        return ()

    def stop(self) -> None:
        """Leave them running."""


def brokers_for(settings: LocalSettings) -> Brokers:
    """Return the Kafka that the settings ask for."""
    if not settings.brings_broker:
        return NamedBrokers(settings.kafka)
    folder = DataFolder(settings.data_dir).kafka
    there = len(nodes_in(folder))
    if settings.brokers == there == 1:
        return OwnBroker(folder, settings.broker_port)
    if settings.brokers == 1:
        raise DataFolderError(f"BROKERS: {folder} holds the data of {there} brokers")
    return OwnCluster(folder, settings.broker_port, settings.brokers)
