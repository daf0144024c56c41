"""The load: clients register users, and change and erase some, until all is acknowledged."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import orjson

from app.domain.positions import Position
from tests.chaos.clients import RETRIABLE, Clients
from tests.chaos.writes import CHANGES, Kind, Write, user_id

#: Calls in a request; one alone goes to ``POST /users``.
SIZES = (1, 1, 10, 50)
#: How many registrations are sent a second time, and how many ids come again with other data.
REPEATED_SHARE = 0.05
CONFLICTING_SHARE = 0.01
#: How many users are changed once they are acknowledged, and how often at most; how many are
#: erased, and how many of these come back.
CHANGED_SHARE = 0.06
MOST_CHANGES = 3
ERASED_SHARE = 0.03
RETURNING_SHARE = 0.3
#: How many of these writes follow at once, while the one before may not be settled yet; the others
#: wait until the client has had another request.
AT_ONCE_SHARE = 0.5
#: So the answer is called that says that a write may be stored even later.
OPEN = "outcome-open"
#: So far ahead are requests planned: the pace follows a change of plan as soon.
LONGEST_TURN_SECONDS = 1.0
#: So often clients that wait for their turn look whether they should hurry.
LOOK_UP_SECONDS = 0.02


@dataclass
class Tally:
    """What is acknowledged; written by the clients' thread, read by all."""

    #: By position, and in the order of the acknowledgements.
    writes: dict[str, Write] = field(default_factory=dict)
    order: list[Write] = field(default_factory=list)
    #: By the user's number: where the last acknowledged write stands.
    last: dict[int, Position] = field(default_factory=dict)
    #: Writes of which a request had no answer, or the answer that it may be stored even later.
    unanswered: set[Write] = field(default_factory=set)
    #: Numbers of the users whose registration is acknowledged.
    registered: list[int] = field(default_factory=list)
    counts: Counter[Kind] = field(default_factory=Counter)
    contended: int = 0
    writes_in_flight: int = 0
    longest_gap_seconds: float = 0.0
    _last_ack: float = 0.0

    def begin(self) -> None:
        """Start the clock that looks for gaps."""
        self._last_ack = time.monotonic()

    def acknowledge(self, write: Write, position: str) -> None:
        """Count an acknowledged write."""
        now = time.monotonic()
        self.longest_gap_seconds = max(self.longest_gap_seconds, now - self._last_ack)
        self._last_ack = now
        self.writes[position] = write
        at = Position.parse(position)
        self.last[write.number] = max(at, self.last.get(write.number, at))
        self.order.append(write)
        self.counts[write.kind] += 1
        self.contended += write.is_contended
        if write.kind is Kind.REGISTRATION:
            self.registered.append(write.number)


class Load(Clients):
    """The clients of a storm."""

    def __init__(self, urls: Sequence[str], registrations: int, clients: int, seed: int) -> None:
        super().__init__(urls, clients, seed)
        self.tally = Tally()
        self.registrations = registrations
        #: When the last registration should be sent: the clients write no faster than that needs.
        self.last_at = 0.0
        #: The part that may be acknowledged before the next fault, however long this one takes.
        self.limit = 1.0
        #: Whether the clients should write as fast as they can for now.
        self.hurried = False
        self._next = 0
        self._slot = 0.0

    def __enter__(self) -> Self:
        self.tally.begin()
        return super().__enter__()

    @property
    def share(self) -> float:
        """The part of the registrations that is acknowledged."""
        return len(self.tally.registered) / self.registrations

    async def _client(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        later: list[Write] = []
        while (numbers := self._claim(chance.choice(SIZES))) and not self._given_up.is_set():
            await self._pace(len(numbers))
            await self._write(session, chance, self._registrations(chance, numbers))
            at_once, next_time = _follow_ups(chance, numbers)
            # One by one: the order of a user's writes is that in which they are sent.
            for write in [*later, *at_once]:
                await self._write(session, chance, [write])
            later = next_time
        for write in later:
            await self._write(session, chance, [write])

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
        while not (self.hurried or self._given_up.is_set()):
            if time.monotonic() >= turn and self.share <= self.limit:
                break
            await asyncio.sleep(LOOK_UP_SECONDS)

    def _registrations(self, chance: random.Random, numbers: Sequence[int]) -> list[Write]:
        """Return the calls of a request: new registrations, and some that are not."""
        writes = [Write(number) for number in numbers]
        known = self.tally.registered
        for _ in numbers if known else ():
            if chance.random() < REPEATED_SHARE:
                writes.append(Write(chance.choice(known), Kind.REPEAT))
            if chance.random() < CONFLICTING_SHARE:
                writes.append(Write(chance.choice(known), Kind.CONFLICT))
        return writes

    async def _write(
        self, session: aiohttp.ClientSession, chance: random.Random, writes: list[Write]
    ) -> None:
        """Send writes until all are acknowledged: each may safely be sent again."""
        tries = 0
        while not self._given_up.is_set():
            left = await self._count_in_flight(session, self._choose(chance), writes)
            if not left:
                return
            self.traffic.tries_in_vain += len(left)
            tries = 0 if len(left) < len(writes) else tries + 1
            writes = left
            await self._back_off(chance, tries)

    async def _count_in_flight(
        self, session: aiohttp.ClientSession, url: str, writes: list[Write]
    ) -> list[Write]:
        """Send writes in one request; return those to be sent again."""
        left: list[Write] | None = None
        self.tally.writes_in_flight += len(writes)
        try:
            with self._request_to(url):
                left = await self._send(session, url, writes)
        finally:
            self.tally.writes_in_flight -= len(writes)
        if left is None:
            self.tally.unanswered.update(writes)
            return writes
        return left

    async def _send(
        self, session: aiohttp.ClientSession, url: str, writes: list[Write]
    ) -> list[Write]:
        if len(writes) == 1:
            return await self._send_alone(session, url, writes[0])
        path = ",".join(["registerUser"] * len(writes))
        body = {str(index): write.command(self._seed) for index, write in enumerate(writes)}
        async with session.post(f"{url}/trpc/{path}?batch=1", json=body) as answer:
            results = orjson.loads(await answer.read())
        if not isinstance(results, list) or len(results) != len(writes):
            raise aiohttp.ClientPayloadError(f"no tRPC batch: {answer.status}")
        return [
            write
            for write, result in zip(writes, results, strict=True)
            if not self._settled(write, *_outcome(result))
        ]

    async def _send_alone(
        self, session: aiohttp.ClientSession, url: str, write: Write
    ) -> list[Write]:
        method, path, body = _request(self._seed, write)
        async with session.request(method, url + path, json=body) as answer:
            said = orjson.loads(await answer.read())
        if answer.ok and "result" in said:
            said = said["result"]["data"]  # over tRPC
        return [] if self._settled(write, answer.status, said) else [write]

    def _settled(self, write: Write, status: int, said: Any) -> bool:
        """Count an answer; return whether the write need not be sent again."""
        match status, said:
            case ((200 | 202), {"position": str(position)}):
                self.tally.acknowledge(write, position)
            case _ if status in RETRIABLE:
                self.traffic.failures[str(status)] += 1
                if OPEN in str(said):
                    self.tally.unanswered.add(write)
                return False
            case _:
                self.traffic.refuse(write, f"{status} {said}")
        return True


def _follow_ups(chance: random.Random, numbers: Sequence[int]) -> tuple[list[Write], list[Write]]:
    """Return what follows on registrations: at once, and after another request."""
    at_once: list[Write] = []
    later: list[Write] = []
    for number in numbers:
        when = at_once if chance.random() < AT_ONCE_SHARE else later
        when.extend(Write(number, kind, turn) for turn, kind in enumerate(_changes(chance)))
    return at_once, later


def _changes(chance: random.Random) -> Iterator[Kind]:
    if chance.random() < CHANGED_SHARE:
        yield from chance.choices(CHANGES, k=chance.randint(1, MOST_CHANGES))
    if chance.random() < ERASED_SHARE:
        yield Kind.ERASURE
        if chance.random() < RETURNING_SHARE:
            yield Kind.REPEAT


def _request(seed: int, write: Write) -> tuple[str, str, object]:
    """Return the REST call of a write: method, path, body."""
    command = write.command(seed)
    path = f"/users/{user_id(seed, write.number)}"
    if command is None:
        return "DELETE", path, None
    members = {name: value for name, value in command.items() if name != "type"}
    match command.get("type"):
        case "update":
            del members["id"]
            return "PATCH", path, members
        case "erase":
            return "POST", "/trpc/eraseUser", members
    return "POST", "/users", command


def _outcome(result: object) -> tuple[int, object]:
    """Return the HTTP status that stands for one result of a tRPC batch, and what it says."""
    match result:
        case {"result": {"data": said}}:
            return 200, said
        case {"error": {"data": {"httpStatus": int(status)}} as error}:
            return status, error
        case _:
            return 500, f"not an answer of tRPC: {result!r}"
