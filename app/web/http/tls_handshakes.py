"""Counts TLS connections when they are accepted, before the handshake.

A server of asyncio's hears of a connection after that. So the worker listens without TLS, counts
each connection as it comes, and begins TLS by itself.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from app.web.http.clients import client_at
from app.web.http.connections import Connections

#: How long a client may take to agree on TLS.
GREETING_SECONDS = 5.0


class Greeted(asyncio.Protocol):
    """What a connection is served by, once TLS is agreed on."""

    #: Whether it is one too many: then it is only told so.
    is_refused = False


class Greeting(asyncio.Protocol):
    """A connection that has not agreed on TLS yet."""

    def __init__(
        self,
        served: Greeted,
        context: ssl.SSLContext,
        held_at: Callable[[asyncio.BaseTransport], Connections],
        clock: Callable[[], float],
    ) -> None:
        self._served = served
        self._context = context
        self._held_at = held_at
        self._held: Connections
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._client = ""
        self._early = bytearray()
        self._is_lost = self._is_served = False
        #: When it was accepted: its client has the next step until TLS is agreed on.
        self.waits_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection in, and begin TLS."""
        self._transport = cast(asyncio.Transport, transport)
        self._held = self._held_at(transport)
        self._client = address_of(transport)
        self.waits_since = now = self._clock()
        if not self._held.admit(self, self._client, now):
            # Some agree on TLS all the same, to be told why.
            self._served.is_refused = True
            if not self._held.tells(self):
                self._transport.abort()
                return
        self._agreeing = asyncio.get_running_loop().create_task(self._agree(self._transport))

    def data_received(self, data: bytes) -> None:
        """Keep what comes before TLS begins, and then before the connection is served."""
        self._early += data

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that it was lost meanwhile."""
        if self._is_served:
            self._served.connection_lost(error)
        self._is_lost = True

    async def _agree(self, transport: asyncio.Transport) -> None:
        try:
            agreed = None if transport.is_closing() else await self._begin_tls(transport)
        except OSError:
            agreed = None
        finally:
            self._held.forget(self, self._client)
        # There is a transport, too, if the connection was lost before.
        if agreed is None or self._is_lost or agreed.get_extra_info("ssl_object") is None:
            transport.abort()
            return
        self._is_served = True
        agreed.set_protocol(self._served)
        self._served.connection_made(agreed)
        if self._early:
            # Who is refused is served by another one.
            cast(asyncio.Protocol, agreed.get_protocol()).data_received(bytes(self._early))

    async def _begin_tls(self, transport: asyncio.Transport) -> asyncio.Transport | None:
        # uvloop reads after `connection_made` whatever that says.
        transport.pause_reading()
        loop = asyncio.get_running_loop()
        beginning = loop.create_task(
            loop.start_tls(
                *(transport, self, self._context),
                server_side=True,
                ssl_handshake_timeout=GREETING_SECONDS,
            )
        )
        # Between the first step of that and the first bytes that are read again.
        loop.call_soon(self._hand_over, transport)
        return await beginning

    def _hand_over(self, transport: asyncio.Transport) -> None:
        tls = transport.get_protocol()
        if self._early and tls is not self:
            # An `asyncio.BufferedProtocol`, also where it does not say so.
            size, spoken_to = len(self._early), cast(asyncio.BufferedProtocol, tls)
            memoryview(spoken_to.get_buffer(size))[:size] = self._early
            spoken_to.buffer_updated(size)
            self._early.clear()

    def make_room(self) -> None:
        """End at once."""
        self._held.forget(self, self._client)
        if self._transport is not None:
            self._transport.abort()


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return who is at the other end of a connection, "" if it has no address."""
    peer = transport.get_extra_info("peername")
    return client_at(str(peer[0])) if isinstance(peer, tuple) else ""
