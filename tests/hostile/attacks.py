"""Attacks, each a process of its own: ``python -m tests.hostile.attacks NAME PORT SECONDS``.

None of them is answered as it would like to be, so none of them minds what it is answered.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

from app.domain.positions import token
from local.machine import HOST

#: What a client that floods keeps unsent at most, and how much it sends at once.
CHUNK = 64 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Attack = Callable[[int], Awaitable[NoReturn]]

ATTACKS: dict[str, Attack] = {}


def attack(at_once: int) -> Callable[[Callable[[int], Awaitable[None]]], Attack]:
    """Let so many do the same, again and again: whoever is cut off begins anew."""

    def named(once: Callable[[int], Awaitable[None]]) -> Attack:
        async def again(port: int) -> None:
            while True:
                with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    await once(port)
                await asyncio.sleep(0.01)

        async def all_of_them(port: int) -> NoReturn:
            await asyncio.gather(*(again(port) for _ in range(at_once)))
            raise AssertionError("they go on until they are ended")

        ATTACKS[once.__name__] = all_of_them
        return all_of_them

    return named


async def connect(port: int) -> Streams:
    return await asyncio.open_connection(HOST, port)


def request(
    path: str, body: bytes = b"", kind: str = "application/json", method: str = "POST"
) -> bytes:
    """Return a whole request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n"
    if method == "POST":
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def get(path: str) -> bytes:
    return request(path, method="GET")


async def flood(port: int, sent: bytes, times: int = 1_000_000) -> None:
    """Send the same without end, and read nothing."""
    _, writer = await connect(port)
    try:
        for _ in range(times):
            writer.write(sent)
            await writer.drain()
    finally:
        writer.transport.abort()


async def ask(port: int, sent: bytes) -> None:
    """Send it once, and read whatever comes until the end."""
    reader, writer = await connect(port)
    try:
        writer.write(sent)
        await writer.drain()
        while await reader.read(CHUNK):
            pass
    finally:
        writer.transport.abort()


async def say_no_more(port: int, sent: bytes) -> None:
    """Send something, and then nothing more."""
    reader, writer = await connect(port)
    try:
        writer.write(sent)
        await reader.read()
        await asyncio.sleep(0.1)
    finally:
        writer.transport.abort()


async def drip(port: int, sent: bytes) -> None:
    """Send something byte by byte."""
    reader, writer = await connect(port)
    try:
        for byte in sent:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
        await reader.read(1)
    finally:
        writer.transport.abort()


ROW = b'{"id":"hostile","name":"H","email":"hostile@example.com"}'
MIB = 1024 * 1024


# -- connections


@attack(600)
async def idle_connections(port: int) -> None:
    await say_no_more(port, b"")


@attack(100)
async def half_a_head(port: int) -> None:
    await drip(port, b"POST /users HTTP/1.1\r\nHost: x\r\nX-Y: " + b"z" * 10_000)


@attack(50)
async def a_new_connection_for_each_request(port: int) -> None:
    reader, writer = await connect(port)
    try:
        writer.write(get("/users/nobody"))
        await reader.read(1)
    finally:
        writer.transport.abort()


# -- requests before they are answered


@attack(20)
async def plain_requests_behind_each_other(port: int) -> None:
    await flood(port, request("/users", ROW) * 200)


@attack(20)
async def other_requests_behind_each_other(port: int) -> None:
    await flood(port, get("/users?limit=100") * 200)


@attack(20)
async def bytes_that_are_no_http(port: int) -> None:
    await flood(port, b"\x00\xff\r\n" * 10_000)


# -- bodies


@attack(60)
async def large_bodies_that_never_end(port: int) -> None:
    whole = request("/users/batch", b"[" + b" " * (MIB - 1_000))
    await say_no_more(port, whole[:-1])


@attack(60)
async def arrays_of_nothing(port: int) -> None:
    await ask(port, request("/users/batch", b"[" + b"[]," * 340_000 + b"[]]"))


@attack(40)
async def deep_arrays(port: int) -> None:
    await ask(port, request("/users/batch", b"[" * 500_000 + b"]" * 500_000))


@attack(40)
async def forms_of_many_fields(port: int) -> None:
    form = "application/x-www-form-urlencoded"
    await ask(port, request("/register", b"a&" * (MIB // 2 - 1), form))


@attack(4)
async def rows_that_are_none(port: int) -> None:
    _, writer = await connect(port)
    try:
        head = request("/users/batch", kind="application/x-ndjson")
        head = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        writer.write(head)
        rows = b"0\n" * (CHUNK // 2)
        while True:
            writer.write(b"%x\r\n%b\r\n" % (len(rows), rows))
            await writer.drain()
    finally:
        writer.transport.abort()


@attack(40)
async def streams_of_rows(port: int) -> None:
    _, writer = await connect(port)
    try:
        head = request("/users/batch", kind="application/x-ndjson")
        writer.write(head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        rows = (ROW + b"\n") * 1_000
        for _ in range(1_000_000):
            writer.write(b"%x\r\n%b\r\n" % (len(rows), rows))
            await writer.drain()
    finally:
        writer.transport.abort()


# -- answers


@attack(50)
async def many_refusals_in_a_stream(port: int) -> None:
    stream = get("/trpc/" + "," * 60_000 + "?batch=1")
    await flood(port, stream.replace(b"\r\n\r\n", b"\r\ntrpc-accept: application/jsonl\r\n\r\n"))


@attack(20)
async def pages_in_batches(port: int) -> None:
    path = "/trpc/" + ",".join(["listUsers"] * 1_000)
    calls = ",".join(f'"{number}":{{"limit":100}}' for number in range(1_000))
    await ask(port, get(f"{path}?batch=1&input=%7B{calls}%7D".replace('"', "%22")))


@attack(20)
async def the_whole_export_unread(port: int) -> None:
    await flood(port, get("/export"))


@attack(200)
async def watchers(port: int) -> None:
    await say_no_more(port, get("/events"))


@attack(20)
async def heads_of_streams(port: int) -> None:
    await flood(port, request("/events", method="HEAD") + request("/export", method="HEAD"))


@attack(20)
async def the_api_document(port: int) -> None:
    await flood(port, get("/openapi.json") * 20)


@attack(200)
async def waits_for_what_never_comes(port: int) -> None:
    await ask(port, get(f"/users/nobody?after={token(0, 999_999)}"))


@attack(100)
async def writes_that_wait(port: int) -> None:
    sent = request("/users", ROW).replace(b"\r\n\r\n", b"\r\nPrefer: wait=10\r\n\r\n", 1)
    await ask(port, sent)


async def _main(name: str, port: int, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ATTACKS[name](port)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
