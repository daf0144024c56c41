"""The clients: they register users at any worker until every registration is acknowledged."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import aiohttp
import orjson

#: A request is given up after this long; the broker's acknowledgement may take a worker 5 s.
REQUEST_TIMEOUT_SECONDS = 7.0
#: A worker that did not answer is left alone for this long, as a load balancer would.
SHUN_SECONDS = 1.0
FIRST_BACK_OFF_SECONDS = 0.02
LAST_BACK_OFF_SECONDS = 0.5
#: Calls in a request; one alone goes to ``POST /users``.
SIZES = (1, 1, 10, 50)
#: How many registrations are sent a second time, and how many ids come again with other data.
REPEATED_SHARE = 0.05
CONFLICTING_SHARE = 0.01
#: What a client may try again; any other refusal is a defect.
RETRIABLE = frozenset({429, 500, 502, 503, 504})
MOST_REFUSALS_KEPT = 5
#: So far ahead are requests planned: the pace follows a change of plan as soon.
LONGEST_TURN_SECONDS = 1.0
#: So often clients that wait for their turn look whether they should hurry.
LOOK_UP_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Item:
    """One call: a registration by number, new or again, with its own data or with other."""

    number: int
    new: bool = False
    conflicting: bool = False


def user_id(seed: int, number: int) -> str:
    """Return the id of a registration."""
    return f"chaos-{seed}-{number}"


def user(seed: int, item: Item) -> dict[str, str]:
    """Return a registration: for the same seed and number always the same data."""
    name = "Somebody Else" if item.conflicting else f"User {item.number}"
    whose = "other" if item.conflicting else "user"
    email = f"{whose}-{item.number}@chaos-{seed}.example.com"
    return {"id": user_id(seed, item.number), "name": name, "email": email}


@dataclass
class Tally:
    """What the clients have seen; written by their thread, read by all."""

    acknowledged: list[int] = field(default_factory=list)
    #: Numbers whose id was also sent with other data, after its own was acknowledged.
    conflicting: set[int] = field(default_factory=set)
    repeats: int = 0
    conflicts: int = 0
    #: Registrations that a request did not get acknowledged, and that were sent again.
    tries_in_vain: int = 0
    requests: int = 0
    requests_in_flight: int = 0
    registrations_in_flight: int = 0
    longest_gap_seconds: float = 0.0
    #: Why requests failed.
    failures: Counter[str] = field(default_factory=Counter)
    #: What was refused as if it was wrong: never rightly.
    refused: list[str] = field(default_factory=list)
    _last_ack: float = 0.0

    def begin(self) -> None:
        """Start the clock that looks for gaps."""
        self._last_ack = time.monotonic()

    def acknowledge(self, item: Item) -> None:
        """Count an acknowledged call."""
        now = time.monotonic()
        self.longest_gap_seconds = max(self.longest_gap_seconds, now - self._last_ack)
        self._last_ack = now
        if item.new:
            self.acknowledged.append(item.number)
        elif item.conflicting:
            self.conflicts += 1
        else:
            self.repeats += 1

    def refuse(self, item: Item, why: str) -> None:
        """Keep what was refused."""
        if len(self.refused) < MOST_REFUSALS_KEPT:
            self.refused.append(f"{item}: {why}")


class Load:
    """Clients in a thread of their own; as a context manager they write in the block."""

    def __init__(self, urls: Sequence[str], registrations: int, clients: int, seed: int) -> None:
        self.tally = Tally()
        self.registrations = registrations
        #: When the last registration should be sent: the clients write no faster than that needs.
        self.last_at = 0.0
        #: Whether the clients should write as fast as they can for now.
        self.hurried = False
        self._urls = urls
        self._clients = clients
        self._seed = seed
        self._next = 0
        self._slot = 0.0
        self._shunned: dict[str, float] = {}
        self._outstanding: Counter[str] = Counter()
        self._given_up = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)

    def __enter__(self) -> Self:
        self.tally.begin()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._given_up.set()
        self._thread.join()

    @property
    def done(self) -> bool:
        """Whether every registration is acknowledged, or the clients have failed."""
        if self._failed is not None:
            raise self._failed
        return not self._thread.is_alive()

    @property
    def share(self) -> float:
        """The part of the registrations that is acknowledged."""
        return len(self.tally.acknowledged) / self.registrations

    @property
    def busy(self) -> bool:
        """Whether every client waits for an answer."""
        return self.tally.requests_in_flight >= self._clients

    def _run(self) -> None:
        try:
            asyncio.run(self._all_clients())
        except BaseException as error:
            self._failed = error

    async def _all_clients(self) -> None:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            asyncio.TaskGroup() as clients,
        ):
            for number in range(self._clients):
                clients.create_task(self._client(session, random.Random(f"{self._seed}-{number}")))

    async def _client(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        while (numbers := self._claim(chance.choice(SIZES))) and not self._given_up.is_set():
            await self._pace(len(numbers))
            await self._register(session, chance, self._items(chance, numbers))

    def _claim(self, size: int) -> range:
        numbers = range(self._next, min(self._next + size, self.registrations))
        self._next = numbers.stop
        return numbers

    async def _pace(self, size: int) -> None:
        """Wait for the turn of so many registrations, so that the load lasts as planned."""
        now = time.monotonic()
        seconds_each = max(self.last_at - now, 0) / max(self.registrations - self._next, 1)
        turn = max(self._slot, now) + size * seconds_each
        turn = self._slot = min(turn, now + LONGEST_TURN_SECONDS)
        while not self.hurried and (wait := turn - time.monotonic()) > 0:
            await asyncio.sleep(min(wait, LOOK_UP_SECONDS))

    def _items(self, chance: random.Random, numbers: Sequence[int]) -> list[Item]:
        """Return the calls of a request: new registrations, and some that are not."""
        items = [Item(number, new=True) for number in numbers]
        known = self.tally.acknowledged
        for _ in numbers if known else ():
            if chance.random() < REPEATED_SHARE:
                items.append(Item(chance.choice(known)))
            # Only once the id's own registration is acknowledged: so that one stands first.
            if chance.random() < CONFLICTING_SHARE:
                items.append(Item(chance.choice(known), conflicting=True))
                self.tally.conflicting.add(items[-1].number)
        return items

    async def _register(
        self, session: aiohttp.ClientSession, chance: random.Random, items: list[Item]
    ) -> None:
        """Send calls until all are acknowledged: a registration may safely be sent again."""
        back_off = FIRST_BACK_OFF_SECONDS
        while not self._given_up.is_set():
            url = self._choose(chance)
            left = await self._count_in_flight(session, url, items)
            if not left:
                return
            self.tally.tries_in_vain += len(left)
            back_off = FIRST_BACK_OFF_SECONDS if len(left) < len(items) else back_off * 2
            items = left
            await asyncio.sleep(chance.uniform(0.5, 1) * min(back_off, LAST_BACK_OFF_SECONDS))

    def _choose(self, chance: random.Random) -> str:
        """Return a worker: the least busy, so that one that hangs does not catch every client."""
        now = time.monotonic()
        well = [url for url in self._urls if self._shunned.get(url, 0.0) < now] or self._urls
        fewest = min(self._outstanding[url] for url in well)
        return chance.choice([url for url in well if self._outstanding[url] == fewest])

    async def _count_in_flight(
        self, session: aiohttp.ClientSession, url: str, items: list[Item]
    ) -> list[Item]:
        self.tally.requests += 1
        self.tally.requests_in_flight += 1
        self._outstanding[url] += 1
        self.tally.registrations_in_flight += len(items)
        try:
            return await self._send(session, url, items)
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            self._shunned[url] = time.monotonic() + SHUN_SECONDS
            self.tally.failures[type(error).__name__] += 1
            return items
        finally:
            self.tally.requests_in_flight -= 1
            self._outstanding[url] -= 1
            self.tally.registrations_in_flight -= len(items)

    async def _send(
        self, session: aiohttp.ClientSession, url: str, items: list[Item]
    ) -> list[Item]:
        """Send calls in one request; return those to be sent again."""
        if len(items) == 1:
            return await self._send_alone(session, url, items[0])
        path = ",".join(["registerUser"] * len(items))
        body = {str(index): user(self._seed, item) for index, item in enumerate(items)}
        async with session.post(f"{url}/trpc/{path}?batch=1", json=body) as answer:
            results = orjson.loads(await answer.read())
        if not isinstance(results, list) or len(results) != len(items):
            raise aiohttp.ClientPayloadError(f"no tRPC batch: {answer.status}")
        return [
            item
            for item, result in zip(items, results, strict=True)
            if not self._settled(item, *_outcome(result))
        ]

    async def _send_alone(self, session: aiohttp.ClientSession, url: str, item: Item) -> list[Item]:
        async with session.post(f"{url}/users", json=user(self._seed, item)) as answer:
            said = await answer.text()
        return [] if self._settled(item, answer.status, said) else [item]

    def _settled(self, item: Item, status: int, said: str) -> bool:
        """Count an answer; return whether the call need not be sent again."""
        if status in (200, 202):
            self.tally.acknowledge(item)
        elif status in RETRIABLE:
            self.tally.failures[str(status)] += 1
            return False
        else:
            self.tally.refuse(item, f"{status} {said}")
        return True


def _outcome(result: object) -> tuple[int, str]:
    """Return the HTTP status that stands for one result of a tRPC batch, and its message."""
    match result:
        case {"result": _}:
            return 200, ""
        case {"error": {"message": str(message), "data": {"httpStatus": int(status)}}}:
            return status, message
        case _:
            return 500, f"not an answer of tRPC: {result!r}"
