"""Accepts connections from a socket that several processes share, so that each gets its part.

All of them are woken by a new connection. An event loop takes whatever waits, so that one process
may get most of a burst, and keeps these connections for as long as they are used. Here a process
takes few at a time, and then leaves the others some time: docs/decisions/one-address.md.
"""

import asyncio
import socket
from collections.abc import Callable

#: A process accepts this many connections, then pauses. So it accepts up to 2,000 a second, which
#: is more than it can serve if each connection sends one request.
TAKEN_AT_ONCE = 2
PAUSE_SECONDS = 0.001


class Accepting:
    """Accepts connections until it is stopped. The socket stays open: it is not this process's."""

    def __init__(
        self, listening: socket.socket, factory: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self._listening = listening
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._is_over = False
        listening.setblocking(False)
        self._go_on()

    def stop(self) -> None:
        """Take no more connections: they wait for the other processes."""
        self._is_over = True
        self._loop.remove_reader(self._listening)

    def _go_on(self) -> None:
        if not self._is_over:
            self._loop.add_reader(self._listening, self._take)

    def _take(self) -> None:
        for _ in range(TAKEN_AT_ONCE):
            try:
                taken, _address = self._listening.accept()
            except BlockingIOError:
                return  # another process was faster
            except OSError:
                break  # no descriptor is free, or the client has gone
            beginning = self._loop.create_task(self._begin(taken))
            self._beginning.add(beginning)
            beginning.add_done_callback(self._beginning.discard)
        self._loop.remove_reader(self._listening)
        self._loop.call_later(PAUSE_SECONDS, self._go_on)

    async def _begin(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, taken)
        except OSError:
            taken.close()  # its client has gone
