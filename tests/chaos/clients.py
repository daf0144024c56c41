"""Clients at any worker, as many as one likes: what they have in common, whatever they ask."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import aiohttp
import orjson

#: A request is given up after this long; the broker's acknowledgement may take a worker 5 s.
TIMEOUT = aiohttp.ClientTimeout(total=7.0)
#: A worker that did not answer is left alone for this long, as a load balancer would.
SHUN_SECONDS = 1.0
FIRST_BACK_OFF_SECONDS = 0.02
LAST_BACK_OFF_SECONDS = 0.5
#: What a client may try again; any other refusal is a defect.
RETRIABLE = frozenset({429, 500, 502, 503, 504})
MOST_REFUSALS_KEPT = 5


@dataclass
class Traffic:
    """What became of requests; written by the clients' thread, read by all."""

    requests: int = 0
    requests_in_flight: int = 0
    #: Writes that a request did not get acknowledged, and that were sent again.
    tries_in_vain: int = 0
    #: Why requests failed.
    failures: Counter[str] = field(default_factory=Counter)
    #: What was refused as if it was wrong: never rightly.
    refused: list[str] = field(default_factory=list)

    def refuse(self, what: object, why: str) -> None:
        """Keep what was refused."""
        if len(self.refused) < MOST_REFUSALS_KEPT:
            self.refused.append(f"{what}: {why}")


class Clients:
    """Clients in a thread of their own; as a context manager they are at work in the block."""

    def __init__(self, urls: Sequence[str], clients: int, seed: int) -> None:
        self.traffic = Traffic()
        self._urls = urls
        self._clients = clients
        self._seed = seed
        self._shunned: dict[str, float] = {}
        self._outstanding: Counter[str] = Counter()
        self._given_up = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._given_up.set()
        self._thread.join()

    @property
    def done(self) -> bool:
        """Whether the clients have come to their end; fails if one of them has failed."""
        if self._failed is not None:
            raise self._failed
        return not self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether every client waits for an answer."""
        return self.traffic.requests_in_flight >= self._clients

    def _run(self) -> None:
        try:
            asyncio.run(self._all_clients())
        except BaseException as error:
            self._failed = error

    async def _all_clients(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with (
            aiohttp.ClientSession(
                timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=self._clients)
            ) as session,
            asyncio.TaskGroup() as clients,
        ):
            for number in range(self._clients):
                clients.create_task(self._client(session, random.Random(f"{self._seed}-{number}")))

    async def _client(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        """Do what one client does."""
        raise NotImplementedError

    async def _answer(
        self,
        session: aiohttp.ClientSession,
        chance: random.Random,
        method: str,
        path: str,
        **more: Any,
    ) -> tuple[int, Any]:
        """Ask until a worker can tell, and return its answer; the status is 0 if given up."""
        for tries in count():
            if self._given_up.is_set():
                break
            url = self._choose(chance)
            with self._request_to(url):
                async with session.request(method, url + path, **more) as answer:
                    body = await answer.read()
                    if answer.status not in RETRIABLE:
                        return answer.status, orjson.loads(body)
                    self.traffic.failures[str(answer.status)] += 1
            self.traffic.tries_in_vain += 1
            await self._back_off(chance, tries)
        return 0, None

    async def _back_off(self, chance: random.Random, tries: int) -> None:
        longest = min(FIRST_BACK_OFF_SECONDS * 2**tries, LAST_BACK_OFF_SECONDS)
        await asyncio.sleep(chance.uniform(0.5, 1) * longest)

    def _choose(self, chance: random.Random) -> str:
        """Return a worker: the least busy, so that one that hangs does not catch every client."""
        now = time.monotonic()
        well = [url for url in self._urls if self._shunned.get(url, 0.0) < now] or self._urls
        fewest = min(self._outstanding[url] for url in well)
        return chance.choice([url for url in well if self._outstanding[url] == fewest])

    @contextmanager
    def _request_to(self, url: str) -> Iterator[None]:
        """Count a request; one that gets no answer only ends the block."""
        self.traffic.requests += 1
        self.traffic.requests_in_flight += 1
        self._outstanding[url] += 1
        try:
            yield
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            self._shunned[url] = time.monotonic() + SHUN_SECONDS
            self.traffic.failures[type(error).__name__] += 1
        finally:
            self.traffic.requests_in_flight -= 1
            self._outstanding[url] -= 1
