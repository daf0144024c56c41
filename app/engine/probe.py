"""Checks whether brokers answer, on its own connections."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

PROBE_TIMEOUT_SECONDS = 2.0


async def brokers_answer(arguments: Mapping[str, Any]) -> bool:
    """Return whether a broker answers, and every broker that it names.

    Brokers that are known to be away are not named. If a named broker does not answer, the others
    have not agreed on that yet, or are too few to agree. Then nobody can commit anything.
    """
    client = AIOKafkaClient(**arguments)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            await client.bootstrap()
            named = [broker.nodeId for broker in client.cluster.brokers()]
            return bool(named) and all(await asyncio.gather(*map(client.ready, named)))
    except (KafkaError, TimeoutError):
        return False
    finally:
        await client.close()
