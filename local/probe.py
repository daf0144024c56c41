"""Does something answer? An open port is not enough: Kafka and the workers are really asked."""

import asyncio
import ssl
import urllib.error
import urllib.request
from http import HTTPStatus

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from app.config.connection import Connection

PROBE_TIMEOUT_SECONDS = 2.0


def kafka_answers(connection: Connection) -> bool:
    """Tell whether a Kafka cluster answers there with a live broker."""
    try:
        return asyncio.run(asyncio.wait_for(_has_brokers(connection), PROBE_TIMEOUT_SECONDS))
    except TimeoutError:
        return False


async def _has_brokers(connection: Connection) -> bool:
    client = AIOKafkaClient(**connection.client())
    try:
        await client.bootstrap()
        return bool(client.cluster.brokers())
    except KafkaError:
        return False
    finally:
        await client.close()


def http_answers_ok(url: str) -> bool:
    """Tell whether a GET of a URL is answered with status 200."""
    # Whether this machine trusts the certificate is not what is asked; its names need not fit.
    context = ssl._create_unverified_context()  # noqa: S323
    # A proxy that the environment names is none for this machine.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=PROBE_TIMEOUT_SECONDS) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, ValueError):  # urllib's and http's errors are OSError or ValueError
        return False
