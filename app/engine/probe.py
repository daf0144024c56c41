"""Do the brokers answer? Asked on connections of its own, whatever has become of the others."""

import asyncio
from collections.abc import Sequence

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

PROBE_TIMEOUT_SECONDS = 2.0


async def brokers_answer(brokers: Sequence[str]) -> bool:
    """Tell whether one of these, each ``host:port``, answers, and so do all that it names.

    Brokers that are known to be away are not named. Where one is named that does not answer, the
    others have not agreed on that yet, or are too few to: nobody can commit anything then.
    """
    client = AIOKafkaClient(bootstrap_servers=list(brokers))
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            await client.bootstrap()
            named = [broker.nodeId for broker in client.cluster.brokers()]
            return bool(named) and all(await asyncio.gather(*map(client.ready, named)))
    except (KafkaError, TimeoutError):
        return False
    finally:
        await client.close()
