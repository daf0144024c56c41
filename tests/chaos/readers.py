"""Readers: lookups while the storm goes on, each kept with what was known when it was asked.

What lookups promise (docs/decisions/lookups.md), and what is therefore demanded of each answer:

- After a write (``?after=``), a user is as that write left it, or newer, and no copy says so.
- An answer without a mark comes from the owner. It is not older than what anybody knew to be
  settled when it was asked for.
- A marked answer lacks no more than it says.
- 503 with a cause and ``Retry-After`` is no lie.

An answer becomes claims; the model says after the storm which of them were ever true.
"""

import asyncio
import random
import time
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from app.domain.keys import partition_of
from app.domain.positions import Position, offset_of
from app.web.api.lookups import STALE_HEADER
from tests.chaos.answers import TELLING
from tests.chaos.clients import TIMEOUT, Clients
from tests.chaos.load import Tally
from tests.chaos.model import Model, Shown, normalised
from tests.chaos.writes import Write, user_id

READERS = 3
#: Between two lookups of a reader: the machine is there for the writes. Longer if nobody can tell.
PAUSE_SECONDS = 0.02
LONG_PAUSE_SECONDS = 0.1
#: Half of the lookups are for users of whom one of so many newest writes was.
NEWEST_WRITES = 200
#: How many lookups name the last acknowledged write of the user.
AFTER_SHARE = 0.6
BY_ID, BY_EMAIL, BY_PREFIX = 6, 3, 1
#: So many users are asked for at once, of a worker that is about to be woken.
CROWD = 200
#: Clocks of answers are rounded to a millisecond.
ROUNDED_SECONDS = 0.001
PREFIX_PATH = "/users?prefix="
UNKNOWN_USER = "urn:user-registry:problem:unknown-user"
MOST_WRONG_KEPT = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """A lookup: of a worker, when, and after which write."""

    url: str
    path: str
    after: Position | None
    at: float

    @property
    def full_path(self) -> str:
        """The path, with the write that the answer is to come after."""
        if self.after is None:
            return self.path
        return f"{self.path}{'&' if '?' in self.path else '?'}after={self.after.token()}"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that tells: 200 or 404."""

    asked: Asked
    status: int
    body: Mapping[str, Any]
    #: For how long it may lack something, if it is marked.
    stale_seconds: float

    def __str__(self) -> str:
        mark = f", {self.stale_seconds} s stale" if self.stale_seconds else ""
        return f"GET {self.asked.full_path} of {self.asked.url}: {self.status}{mark}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What an answer says of a user as it was after the record at an offset, or later."""

    answer: str
    user_id: str
    since: int
    shown: Shown | None
    #: An address that the user had not: that is all that the answer says.
    without: str | None = None

    def holds(self, model: Model) -> bool:
        """Return whether the user was ever so."""
        seen = model.histories[self.user_id].since(self.since)
        if self.without is None:
            return self.shown in seen
        return any(each is None or normalised(each.email) != self.without for each in seen)

    def __str__(self) -> str:
        says = self.shown if self.without is None else f"has not {self.without}"
        return f"{self.answer}: {self.user_id} is {says}, after offset {self.since}"


class Known:
    """What is known to be settled: by user, since when, up to which offset."""

    def __init__(self) -> None:
        self._since: defaultdict[str, list[float]] = defaultdict(list)
        self._offsets: defaultdict[str, list[int]] = defaultdict(list)
        #: The users of whom something was learned last, and when.
        self.newest: deque[tuple[float, str]] = deque(maxlen=CROWD)

    def learn(self, user_id: str, offset: int) -> None:
        """Note that a record is settled."""
        if offset > self.at(user_id, time.monotonic()):
            self._since[user_id].append(time.monotonic())
            self._offsets[user_id].append(offset)
            self.newest.append((time.monotonic(), user_id))

    def at(self, user_id: str, moment: float) -> int:
        """Return the offset up to which all was known to be settled at a moment; -1: nothing."""
        found = bisect_right(self._since[user_id], moment)
        return self._offsets[user_id][found - 1] if found else -1

    def ids(self, prefix: str) -> list[str]:
        """Return the users of whom anything is known, and whose ids begin so."""
        return [each for each in self._offsets if each.startswith(prefix)]


@dataclass
class Findings:
    """What the readers saw."""

    answers: Counter[str] = field(default_factory=Counter)
    claims: list[Claim] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def lies(self, model: Model) -> list[Claim]:
        """Return the claims that were never true."""
        return [claim for claim in self.claims if not claim.holds(model)]

    def refuse(self, what: str) -> None:
        """Keep an answer that no lookup may have."""
        if len(self.wrong) < MOST_WRONG_KEPT:
            self.wrong.append(what)


class Readers(Clients):
    """Clients that look up what others write, at random workers, until the block ends."""

    def __init__(self, urls: Sequence[str], tally: Tally, partitions: int, seed: int) -> None:
        super().__init__(urls, READERS, seed)
        self._partitions = partitions
        self.findings = Findings()
        self._tally = tally
        self._known = Known()

    def settles(self, since: float) -> bool:
        """Return whether writes are known to be settled in all partitions since a moment."""
        newest = (user_id for at, user_id in list(self._known.newest) if at >= since)
        found = {partition_of(user_id.encode(), self._partitions) for user_id in newest}
        return len(found) == self._partitions

    def crowd(self, url: str) -> None:
        """Ask a worker that stands still for the users who were settled last.

        It finds the requests when it is woken, and may not know yet that others own these users.
        """
        asyncio.run_coroutine_threadsafe(self._crowd(url), self._loop)

    async def _crowd(self, url: str) -> None:
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session, asyncio.TaskGroup() as asking:
            for user_id in {user_id for _, user_id in self._known.newest}:
                asking.create_task(self._look_up(session, url, user_id))

    async def _look_up(self, session: aiohttp.ClientSession, url: str, user_id: str) -> None:
        asked = Asked(url, f"/users/{user_id}", None, time.monotonic())
        if answer := await self._answer_to(session, asked):
            shown = _shown(answer.body) if answer.status == 200 else None
            self._claim(answer, user_id, None, shown)

    async def _client(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        kinds = [self._by_id, self._by_email, self._by_prefix]
        while not self._given_up.is_set():
            if order := self._tally.order:
                newest = order[-NEWEST_WRITES:] if chance.random() < 0.5 else order
                (ask,) = chance.choices(kinds, [BY_ID, BY_EMAIL, BY_PREFIX])
                await ask(session, chance, chance.choice(newest))
            await asyncio.sleep(PAUSE_SECONDS)

    # -- questions, and what their answers say

    async def _by_id(
        self, session: aiohttp.ClientSession, chance: random.Random, write: Write
    ) -> None:
        asked = self._ask(chance, write, f"/users/{self._id(write)}")
        if answer := await self._answer_to(session, asked):
            shown = _shown(answer.body) if answer.status == 200 else None
            self._claim(answer, self._id(write), asked.after, shown)

    async def _by_email(
        self, session: aiohttp.ClientSession, chance: random.Random, write: Write
    ) -> None:
        email = write.email(self._seed)
        address, asker = normalised(email), self._id(write)
        asked = self._ask(chance, write, f"/users?email={quote(email)}")
        if not (answer := await self._answer_to(session, asked)):
            return
        found = _shown(answer.body) if answer.status == 200 else None
        holder = answer.body["id"] if found else None
        if found and holder:
            self._claim(answer, holder, asked.after if holder == asker else None, found)
            if normalised(found.email) != address:
                self.findings.refuse(f"{answer}: {found}")
        if holder != asker and asked.after:
            # Without a write to come after, who holds an address may be told a moment late.
            self._claim(answer, asker, asked.after, None, without=address)

    async def _by_prefix(
        self, session: aiohttp.ClientSession, chance: random.Random, write: Write
    ) -> None:
        prefix = self._id(write)[:-1]
        asked = self._ask(chance, write, f"{PREFIX_PATH}{prefix}")
        known = self._known.ids(prefix)
        if not (answer := await self._answer_to(session, asked)):
            return
        users = {each["id"]: _shown(each) for each in answer.body["users"]}
        last = max(users, default=prefix) if "next" in answer.body else None
        missing = [each for each in known if last is None or each <= last]
        for each in {*users, *missing}:
            after = asked.after if each == self._id(write) else None
            self._claim(answer, each, after, users.get(each))

    def _ask(self, chance: random.Random, write: Write, path: str) -> Asked:
        # What is acknowledged counts from before the lookup is sent.
        after = self._tally.last[write.number] if chance.random() < AFTER_SHARE else None
        return Asked(self._choose(chance), path, after, time.monotonic())

    def _id(self, write: Write) -> str:
        return user_id(self._seed, write.number)

    def _claim(
        self,
        answer: Answer,
        user_id: str,
        after: Position | None,
        shown: Shown | None,
        without: str | None = None,
    ) -> None:
        """Keep what an answer says, and what is known from now on."""
        since = self._known.at(user_id, answer.asked.at - answer.stale_seconds - ROUNDED_SECONDS)
        if not answer.stale_seconds:
            since = max(since, -1 if after is None else after.offset)
            settled = [after.offset] if after else []
            if shown and shown.status == "registered":
                settled.append(offset_of(shown.position))
            for offset in settled:
                self._known.learn(user_id, offset)
        self.findings.claims.append(Claim(str(answer), user_id, since, shown, without))

    # -- asking

    async def _answer_to(self, session: aiohttp.ClientSession, asked: Asked) -> Answer | None:
        """Return the answer if it tells; what tells nothing is counted."""
        answer: Answer | None = None
        kind = "no answer"
        with self._request_to(asked.url):
            async with session.get(asked.url + asked.full_path) as response:
                body = orjson.loads(await response.read())
            stale = float(response.headers.get(STALE_HEADER, 0))
            answer = Answer(asked, response.status, body, stale)
            kind = self._kind(answer, response.headers)
        self.findings.answers[kind] += 1
        if answer is None or answer.status not in TELLING:
            await asyncio.sleep(LONG_PAUSE_SECONDS)
            return None
        return answer

    def _kind(self, answer: Answer, headers: Mapping[str, str]) -> str:
        """Return what an answer is, in a word; no other is right."""
        kind = str(answer.body.get("type", ""))
        match answer.status:
            case 200 if not answer.stale_seconds:
                return "users"
            case 200 if answer.asked.after is None or answer.asked.path.startswith(PREFIX_PATH):
                return "copies"
            case 404 if kind == UNKNOWN_USER:
                return "nobody"
            case 503 if kind and "Retry-After" in headers:
                return kind.rpartition(":")[2]
        self.findings.refuse(f"{answer} {answer.body}")
        return "wrong"


def _shown(user: Mapping[str, Any]) -> Shown:
    return Shown(user["status"], user["position"], user["name"], user["email"])
