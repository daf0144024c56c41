"""The Kafka that a run uses: one that it brings, or one that was named."""

from typing import Protocol

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from local.broker import Broker
from local.console import say
from local.errors import BrokerError
from local.folder import DataFolder
from local.probe import kafka_answers
from local.settings import LocalSettings

ANSWER_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.25


class Brokers(Protocol):
    """What the supervisor asks of a Kafka; the manager's `OwnBroker` and `NamedBrokers` have it."""

    name: str

    @property
    def address(self) -> str:
        """``host:port[,…]``, for clients."""

    def launch(self) -> object:
        """Have it answer; raises `LocalError`."""

    def ending(self) -> str | None:
        """Return how it ended, as words; None while it runs."""

    def stop(self) -> object:
        """Stop it if it was ours to start."""


class OwnBroker(Broker):
    """The broker in the data folder."""

    name = "the broker"

    def launch(self) -> bool:
        """Start it, or take over the one that runs."""
        say(f"Starting {self.name} ...")
        return self.start()


class NamedBrokers:
    """Brokers that somebody else runs: asked once, then left alone."""

    name = "Kafka"

    def __init__(self, address: str) -> None:
        self.address = address

    def launch(self) -> None:
        """Wait a little for an answer; raises `BrokerError`."""
        say(f"Asking Kafka at {self.address} ...")
        attempts = Retrying(
            retry=retry_if_result(lambda answers: not answers),
            stop=stop_after_delay(ANSWER_TIMEOUT_SECONDS),
            wait=wait_fixed(POLL_SECONDS),
        )
        try:
            attempts(kafka_answers, self.address)
        except RetryError:
            raise BrokerError(
                f"KAFKA_BROKERS: no Kafka answers at {self.address}: start it, or unset the "
                "setting and `make run` brings a broker"
            ) from None

    def ending(self) -> None:
        """Return nothing: the workers notice for themselves."""

    def stop(self) -> None:
        """Leave them running."""


def brokers_for(settings: LocalSettings) -> Brokers:
    """Return the Kafka that the settings ask for."""
    if settings.brings_broker:
        return OwnBroker(DataFolder(settings.data_dir).kafka, settings.broker_port)
    return NamedBrokers(settings.kafka_brokers)
