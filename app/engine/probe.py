"""Does a broker answer? Asked on a connection of its own, whatever has become of the others."""

import asyncio
from collections.abc import Sequence

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

PROBE_TIMEOUT_SECONDS = 2.0


async def broker_answers(brokers: Sequence[str]) -> bool:
    """Tell whether one of these, each ``host:port``, answers, and knows a broker that lives."""
    client = AIOKafkaClient(bootstrap_servers=list(brokers))
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            await client.bootstrap()
            return bool(client.cluster.brokers())
    except (KafkaError, TimeoutError):
        return False
    finally:
        await client.close()
