"""Connections that are lost: what is written to them is dropped, as asyncio's loop has it."""

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop

from app.system.loop import Loop, Policy

AT_ONCE = struct.pack("ii", 1, 0)


async def write_to_a_lost_connection() -> None:
    """Write in each turn of the loop around the one in which the loss is noticed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        accepted, _ = listening.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        accepted.close()
        while not isinstance(reader.exception(), ConnectionResetError):
            writer.write(b"before")
            await asyncio.sleep(0)
        writer.write(b"after")
        writer.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, Loop])
def test_writes_after_the_loss_are_dropped(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(write_to_a_lost_connection())


def test_uvloop_alone_still_raises() -> None:
    # Once it does not, app/system/loop.py can go.
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(RuntimeError, match="closed=True"),
    ):
        runner.run(write_to_a_lost_connection())


def test_the_policy_gives_such_loops() -> None:
    loop = Policy().new_event_loop()
    assert isinstance(loop, Loop)
    loop.close()
