"""Attacks; each runs in a process: ``python -m tests.hostile.attacks NAME PORT SECONDS ADDRESS``.

None of them is answered as it would like to be, so none of them minds what it is answered.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import NamedTuple, NoReturn

from backports import zstd

from app.domain.positions import token
from local.machine import HOST

#: What a client that floods keeps unsent at most, and how much it sends at once.
CHUNK = 64 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Target(NamedTuple):
    """The port of a worker, and the address of this machine that the attack comes from."""

    port: int
    comes_from: str


Attack = Callable[[Target], Awaitable[NoReturn]]

ATTACKS: dict[str, Attack] = {}


def attack(at_once: int) -> Callable[[Callable[[Target], Awaitable[None]]], Attack]:
    """Let so many do the same, again and again: whoever is cut off begins anew."""

    def named(once: Callable[[Target], Awaitable[None]]) -> Attack:
        async def again(target: Target) -> None:
            while True:
                with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    await once(target)
                await asyncio.sleep(0.01)

        async def all_of_them(target: Target) -> NoReturn:
            await asyncio.gather(*(again(target) for _ in range(at_once)))
            raise AssertionError("they go on until they are ended")

        ATTACKS[once.__name__] = all_of_them
        return all_of_them

    return named


async def connect(target: Target) -> Streams:
    return await asyncio.open_connection(HOST, target.port, local_addr=(target.comes_from, 0))


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


async def flood(target: Target, sent: bytes, times: int = 1_000_000) -> None:
    """Send the same without end, and read nothing."""
    _, writer = await connect(target)
    try:
        for _ in range(times):
            writer.write(sent)
            await writer.drain()
    finally:
        writer.transport.abort()


async def ask(target: Target, sent: bytes) -> None:
    """Send it once, and read whatever comes until the end."""
    reader, writer = await connect(target)
    try:
        writer.write(sent)
        await writer.drain()
        while await reader.read(CHUNK):
            pass
    finally:
        writer.transport.abort()


async def say_no_more(target: Target, sent: bytes) -> None:
    """Send something, and then nothing more."""
    reader, writer = await connect(target)
    try:
        writer.write(sent)
        await reader.read()
        await asyncio.sleep(0.1)
    finally:
        writer.transport.abort()


async def drip(target: Target, sent: bytes) -> None:
    """Send something byte by byte."""
    reader, writer = await connect(target)
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
async def idle_connections(target: Target) -> None:
    await say_no_more(target, b"")


@attack(100)
async def half_a_head(target: Target) -> None:
    await drip(target, b"POST /users HTTP/1.1\r\nHost: x\r\nX-Y: " + b"z" * 10_000)


@attack(50)
async def a_new_connection_for_each_request(target: Target) -> None:
    reader, writer = await connect(target)
    try:
        writer.write(get("/users/nobody"))
        await reader.read(1)
    finally:
        writer.transport.abort()


# -- requests before they are answered


@attack(20)
async def plain_requests_behind_each_other(target: Target) -> None:
    await flood(target, request("/users", ROW) * 200)


@attack(20)
async def other_requests_behind_each_other(target: Target) -> None:
    await flood(target, get("/users?limit=100") * 200)


@attack(20)
async def bytes_that_are_no_http(target: Target) -> None:
    await flood(target, b"\x00\xff\r\n" * 10_000)


# -- bodies


@attack(60)
async def large_bodies_that_never_end(target: Target) -> None:
    whole = request("/users/batch", b"[" + b" " * (MIB - 1_000))
    await say_no_more(target, whole[:-1])


@attack(60)
async def arrays_of_nothing(target: Target) -> None:
    await ask(target, request("/users/batch", b"[" + b"[]," * 340_000 + b"[]]"))


@attack(40)
async def deep_arrays(target: Target) -> None:
    await ask(target, request("/users/batch", b"[" * 500_000 + b"]" * 500_000))


@attack(40)
async def forms_of_many_fields(target: Target) -> None:
    form = "application/x-www-form-urlencoded"
    await ask(target, request("/register", b"a&" * (MIB // 2 - 1), form))


@attack(4)
async def rows_that_are_none(target: Target) -> None:
    _, writer = await connect(target)
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
async def streams_of_rows(target: Target) -> None:
    _, writer = await connect(target)
    try:
        head = request("/users/batch", kind="application/x-ndjson")
        writer.write(head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        rows = (ROW + b"\n") * 250
        for _ in range(1_000_000):
            writer.write(b"%x\r\n%b\r\n" % (len(rows), rows))
            await writer.drain()
            # 100,000 rows a second of all: about what a worker takes. They must be applied, too.
            await asyncio.sleep(0.1)
    finally:
        writer.transport.abort()


# -- bodies that are packed


def packed(body: bytes, kind: str = "application/x-ndjson") -> bytes:
    """Return a batch that says how it is packed."""
    sent = request("/users/batch", body, kind)
    return sent.replace(b"Content-Type", b"Content-Encoding: zstd\r\nContent-Type", 1)


@cache
def bomb(byte: bytes) -> bytes:
    return zstd.compress(byte * 64 * MIB)


@attack(40)
async def bombs_of_line_ends(target: Target) -> None:
    await ask(target, packed(bomb(b"\n")))


@attack(40)
async def bombs_of_brackets(target: Target) -> None:
    await ask(target, packed(bomb(b"["), "application/json"))


@attack(40)
async def frames_that_hold_nothing(target: Target) -> None:
    await ask(target, packed(zstd.compress(b"") * (MIB // 10)))


@cache
def begun_stream() -> bytes:
    far = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 23})
    rows = far.compress(ROW * 100, zstd.ZstdCompressor.FLUSH_BLOCK)
    return packed(rows + bytes(MIB))[:-MIB]


@attack(60)
async def packed_streams_that_never_end(target: Target) -> None:
    await say_no_more(target, begun_stream())


# -- answers


@attack(50)
async def many_refusals_in_a_stream(target: Target) -> None:
    stream = get("/trpc/" + "," * 60_000 + "?batch=1")
    await flood(target, stream.replace(b"\r\n\r\n", b"\r\ntrpc-accept: application/jsonl\r\n\r\n"))


@attack(20)
async def pages_in_batches(target: Target) -> None:
    path = "/trpc/" + ",".join(["listUsers"] * 1_000)
    calls = ",".join(f'"{number}":{{"limit":100}}' for number in range(1_000))
    await ask(target, get(f"{path}?batch=1&input=%7B{calls}%7D".replace('"', "%22")))


@attack(20)
async def the_whole_export_unread(target: Target) -> None:
    await flood(target, get("/export"))


@attack(200)
async def watchers(target: Target) -> None:
    await say_no_more(target, get("/events"))


@attack(20)
async def heads_of_streams(target: Target) -> None:
    await flood(target, request("/events", method="HEAD") + request("/export", method="HEAD"))


@attack(20)
async def the_api_document(target: Target) -> None:
    await flood(target, get("/openapi.json") * 20)


@attack(100)
async def followers(target: Target) -> None:
    await ask(target, get("/trpc/outcomes"))


@attack(40)
async def lookups_of_many(target: Target) -> None:
    names = b",".join([b'"nobody"'] * 1_000)
    await flood(target, request("/users/lookup", b'{"ids":[%b]}' % names))


@attack(200)
async def waits_for_what_never_comes(target: Target) -> None:
    await ask(target, get(f"/users/nobody?after={token(0, 999_999)}"))


@attack(100)
async def writes_that_wait(target: Target) -> None:
    sent = request("/users", ROW).replace(b"\r\n\r\n", b"\r\nPrefer: wait=10\r\n\r\n", 1)
    await ask(target, sent)


async def _main(name: str, seconds: float, target: Target) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ATTACKS[name](target)


if __name__ == "__main__":
    _, NAME, PORT, SECONDS, ADDRESS = sys.argv
    asyncio.run(_main(NAME, float(SECONDS), Target(int(PORT), ADDRESS)))
