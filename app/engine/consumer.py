"""Consumption without holes, by Faust's extension points.

After a recovery Faust makes the source partitions readable, then seeks them to their committed
offsets, and the fetcher does not wait for that (`faust.tables.recovery.Recovery`). What arrives in
between counts as read: brought again by the seek, it is dropped, and the offsets behind it are
committed. Here source partitions become readable only once Faust has sought them.

Faust finds the transport by the URL scheme ``registry://`` (entry point ``faust.transports``).
"""

from collections.abc import Iterable
from typing import Any

from faust.transport.drivers import aiokafka
from faust.types import TP


class Consumer(aiokafka.Consumer):
    """Faust's consumer; source partitions stay closed until the flow is resumed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: set[TP] = set()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Make changelog partitions readable now, the others when the flow is resumed."""
        asked = set(tps)
        sources = {tp for tp in asked if not self._is_changelog_tp(tp)}
        self._waiting |= sources
        super().resume_partitions(asked - sources)

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Close partitions, those too that were about to become readable."""
        asked = set(tps)
        self._waiting -= asked
        super().pause_partitions(asked)

    def resume_flow(self) -> None:
        """Let records flow; Faust calls this right after the seek."""
        ready, self._waiting = self._waiting, set()
        super().resume_partitions(ready)
        super().resume_flow()


class Transport(aiokafka.Transport):
    """Faust's transport, with our consumer."""

    Consumer = Consumer
