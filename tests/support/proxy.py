"""A network between two hosts, as bad as a test wants it: TCP in user space."""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Self

from local.machine import HOST

CHUNK_BYTES = 64 * 1024
#: How long what was held back has to be read before its connection ends.
READ_SECONDS = 1.0
TIMEOUT_SECONDS = 10


@dataclass
class Proxy:
    """Passes on what comes to a port, in a thread of its own, while a block lasts."""

    port: int
    target_port: int
    #: By how much everything is later.
    delay_seconds: float = 0.0
    #: How much passes in a second, of each connection and in each direction; None: all that comes.
    bytes_per_second: int | None = None
    #: What is held back: the connection that sends this next, and nothing else.
    _marker: bytes | None = None
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _passes: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._passes.set()
        self._server = self._run(asyncio.start_server(self._serve, HOST, self.port))
        return self

    def __exit__(self, *_exc: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_SECONDS)
        self._loop.close()

    def cut(self) -> None:
        """Let nothing through any more, in either direction; nobody is told."""
        self._loop.call_soon_threadsafe(self._passes.clear)

    def mend(self) -> None:
        """Let everything through again, what waited first."""
        self._loop.call_soon_threadsafe(self._passes.set)

    def hold(self, marker: bytes) -> None:
        """Hold back the connection that sends these bytes next, until `release`; others pass.

        What the target answers is never held: a record that is read is not the one to be written.

        So does the kernel of a host that is gone from the network, or the socket of a broker that
        stands still: what was sent is read later, whatever has become of who sent it.
        """
        self._released.clear()
        self._marker = marker

    def is_holding(self) -> bool:
        """Return whether a connection is held back."""
        return self._marker is None and not self._released.is_set()

    def release(self) -> None:
        """Deliver what is held back."""
        self._loop.call_soon_threadsafe(self._released.set)

    def reset(self) -> None:
        """End all connections at once."""
        self._run(self._reset())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_SECONDS)

    async def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            there, onward = await asyncio.open_connection(HOST, self.target_port, limit=CHUNK_BYTES)
            self._writers.add(onward)
            await asyncio.gather(
                self._pass(reader, onward, is_sent=True), self._pass(there, writer)
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, *([onward] if "onward" in locals() else [])):
                self._writers.discard(each)
                each.transport.abort()

    @property
    def _chunk_bytes(self) -> int:
        # What is read waits here as a whole: of a narrow way, a tenth of a second's at most.
        per_second = self.bytes_per_second
        return CHUNK_BYTES if per_second is None else max(per_second // 10, 1)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_sent: bool = False
    ) -> None:
        while chunk := await reader.read(self._chunk_bytes):
            if is_sent and self._marker is not None and self._marker in chunk:
                self._marker = None
                await self._released.wait()
                writer.write(chunk)
                await asyncio.sleep(READ_SECONDS)
                continue
            await self._passes.wait()
            await asyncio.sleep(self.delay_seconds)
            if self.bytes_per_second is not None:
                await asyncio.sleep(len(chunk) / self.bytes_per_second)
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError
