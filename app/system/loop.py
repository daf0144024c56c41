"""The event loop: uvloop's, with connections that fail like asyncio's."""

from asyncio import AbstractEventLoop, DefaultEventLoopPolicy
from typing import Any

import uvloop

#: How long the peer of a TLS connection may take to confirm its end. A broker that holds a fetch
#: reads nothing meanwhile, and takeovers would wait for uvloop's 30 seconds.
CLOSE_TLS_SECONDS = 0.5


class Transport:
    """A transport that drops writes after its connection was lost.

    Transports of asyncio do so, too, and the reading side reports the loss. Those of uvloop raise
    `RuntimeError`. aiokafka does not expect it: its metadata task ended, and with it, silently and
    for good, everything that the client does.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, or drop the data if the connection is lost."""
        try:
            self._transport.write(data)
        except RuntimeError:
            if not self._transport.is_closing():
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Loop(uvloop.Loop):
    """uvloop's loop. The connections that it opens use the transport above."""

    async def create_connection(self, *args: Any, **options: Any) -> tuple[Any, Any]:
        """Open a connection: see `asyncio.loop.create_connection`."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_shutdown_timeout", CLOSE_TLS_SECONDS)
        transport, protocol = await super().create_connection(*args, **options)
        return Transport(transport), protocol


class Policy(DefaultEventLoopPolicy):
    """Gives each thread such a loop."""

    def new_event_loop(self) -> AbstractEventLoop:
        """Return a new loop."""
        return Loop()
