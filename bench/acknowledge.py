"""How fast one worker acknowledges registrations over HTTP, and a bare aiohttp answers nothing."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import aiohttp
from aiohttp import web

from local.machine import free_port
from tests.worker import wait_until

CONNECTIONS = 64
BATCH = 100


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Registrations acknowledged per second, and request latencies in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


def singles(url: str, requests: int) -> Acknowledged:
    """Send registrations one a request to ``POST /users``."""
    return asyncio.run(_drive(f"{url}/users", (_user() for _ in range(requests)), 1))


def trpc_batches(url: str, requests: int) -> Acknowledged:
    """Send registrations in tRPC batches of 100."""
    path = ",".join(["registerUser"] * BATCH)
    bodies = ({str(index): _user() for index in range(BATCH)} for _ in range(requests))
    return asyncio.run(_drive(f"{url}/trpc/{path}?batch=1", bodies, BATCH))


def bare(requests: int) -> Acknowledged:
    """Send the same requests to a server that answers nothing."""
    with bare_aiohttp() as url:
        return singles(url, requests)


_ids = itertools.count()
_run = uuid.uuid4().hex[:8]


def _user() -> dict[str, str]:
    number = next(_ids)
    return {"id": f"{_run}-{number}", "name": "Ada King", "email": f"{number}@example.com"}


async def _drive(url: str, bodies: Iterator[Any], each: int) -> Acknowledged:
    latencies: list[float] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for body in bodies:
            began = time.perf_counter()
            async with session.post(url, json=body) as answer:
                await answer.read()
                answer.raise_for_status()
            latencies.append(time.perf_counter() - began)

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(CONNECTIONS)))
        took = time.perf_counter() - began
    return _summary(sorted(latencies), took, each)


def _summary(latencies: list[float], took: float, each: int) -> Acknowledged:
    def percentile(share: float) -> float:
        return latencies[int((len(latencies) - 1) * share)] * 1000

    return Acknowledged(len(latencies) * each / took, percentile(0.5), percentile(0.99))


@contextmanager
def bare_aiohttp() -> Iterator[str]:
    """Run a server that reads a body and answers nothing: the ceiling of this client and stack."""
    port = free_port()
    process = get_context("spawn").Process(target=_serve_nothing, args=(port,))
    process.start()
    try:
        wait_until(lambda: _listens(port), 10, "the bare server listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def _serve_nothing(port: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=202)

    server = web.Application()
    server.router.add_post("/users", answer)
    web.run_app(server, host="127.0.0.1", port=port, print=None, access_log=None)


def _listens(port: int) -> bool:
    async def connect() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return asyncio.run(connect())
