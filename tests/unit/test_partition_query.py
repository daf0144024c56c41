"""Answers: the owner's if there is one; else the freshest copy, and never that there is nothing."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest

from app.domain.errors import InvalidPositionError, NotReadyError, NotSettledError, Unavailable
from app.query import partition_query
from app.query.partition_query import Found, Question, answer
from app.query.routing import Routing

Answer = tuple[int, Mapping[str, Any]] | str | None

#: What workers answer: a user that they own, nobody, nothing at all; `copy` is one more.
FRESH: Answer = 200, {"id": "ada"}
NOBODY: Answer = 404, {}
NOT_READY: Answer = 503, {"type": "not-ready"}
DEAD, HANGS = None, "hangs"


def copy(seconds: float) -> Answer:
    """Return what a worker answers that has a copy."""
    return 200, {"id": "ada", "stale_seconds": seconds}


@dataclass
class Group:
    """Workers, as one of them sees them."""

    others: Mapping[str, Answer]
    owners: Collection[str] = ()
    stale: float | None = None
    why_not: Unavailable | None = None
    asked: list[str] = field(default_factory=list)

    def stale_seconds(self, partition: int) -> float | None:
        """Return how old this worker's rows may be."""
        return self.stale

    def why_not_here(self, partition: int) -> Unavailable | None:
        """Return why this worker cannot answer for a partition of its own."""
        return self.why_not

    def owners_elsewhere(self, partitions: Collection[int]) -> set[str]:
        """Return who owns the partition, as far as this worker knows."""
        return set(self.owners)

    def other_workers(self) -> set[str]:
        """Return all others."""
        return set(self.others)

    async def ask(self, url: str, path: str, seconds: float) -> tuple[int, bytes]:
        """Return what another worker answers."""
        self.asked.append(url)
        told = self.others[url]
        if told == HANGS:
            await asyncio.sleep(seconds)
        if told is DEAD or isinstance(told, str):
            raise NotReadyError(Unavailable.OWNER_UNREACHABLE)
        return told[0], orjson.dumps(told[1])


def read(status: int, body: bytes) -> Found[str | None]:
    """Read an answer as lookups do."""
    members = orjson.loads(body)
    return Found(None) if status == 404 else Found(members["id"], members.get("stale_seconds", 0.0))


async def find(
    group: Group, here: str | None = None, *, copies: bool = True, forwarded: bool = False
) -> Found[str | None]:
    """Ask for a user whom this worker's rows have, or have not."""
    question = Question(3, lambda: here, "/users?id=ada", read, takes_copies=copies)
    return await answer(cast(Routing, group), question, forwarded=forwarded)


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_query, "OWNER_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(partition_query, "OTHERS_PATIENCE_SECONDS", 0.05)


@pytest.mark.parametrize("here", ["ada", None])
async def test_what_this_worker_owns_it_answers_alone(here: str | None) -> None:
    group = Group({"b": FRESH}, owners="b", stale=0.0)
    assert await find(group, here) == Found(here)
    assert not group.asked


@pytest.mark.parametrize(("told", "found"), [(FRESH, "ada"), (NOBODY, None)])
async def test_the_owner_is_asked_and_nobody_else(told: Answer, found: str | None) -> None:
    group = Group({"b": told, "c": copy(1)}, owners="b")
    assert await find(group) == Found(found)
    assert group.asked == ["b"]


@pytest.mark.parametrize("owner", [DEAD, NOT_READY, HANGS, copy(9)])
@pytest.mark.parametrize(("told", "found"), [(FRESH, "ada"), (NOBODY, None)])
async def test_another_worker_may_own_it_by_now(
    owner: Answer, told: Answer, found: str | None
) -> None:
    group = Group({"b": owner, "c": copy(1), "d": told}, owners="b", stale=2)
    assert await find(group, "ada") == Found(found)


@pytest.mark.parametrize("owner", [DEAD, NOT_READY, HANGS])
async def test_while_nobody_owns_it_the_freshest_copy_answers(owner: Answer) -> None:
    others = {"b": owner, "c": copy(1), "d": copy(3)}
    assert await find(Group(others, owners="b", stale=2), "ada") == Found("ada", 1)
    assert await find(Group(others, owners="b", stale=0.5), "ada") == Found("ada", 0.5)


@pytest.mark.parametrize("stale", [None, 1])
@pytest.mark.parametrize("other", [DEAD, NOT_READY, HANGS, (200, {"id": None, "stale_seconds": 1})])
async def test_no_copy_says_that_there_is_nobody(other: Answer, stale: float | None) -> None:
    with pytest.raises(NotReadyError):
        await find(Group({"b": other}, owners="b", stale=stale), None)


async def test_an_answer_of_a_version_that_speaks_otherwise_is_none() -> None:
    with pytest.raises(NotReadyError):
        await find(Group({"b": (200, {"user": "ada"})}, owners="b"))


@pytest.mark.parametrize(
    ("owner", "why_not", "cause"),
    [
        (DEAD, None, Unavailable.OWNER_UNREACHABLE),
        (HANGS, None, Unavailable.OWNER_UNREACHABLE),
        ((200, {"user": "ada"}), None, Unavailable.INCOMPATIBLE_ANSWER),
        ((200, []), None, Unavailable.INCOMPATIBLE_ANSWER),
        ((401, {"type": "unauthorized"}), None, Unavailable.INCOMPATIBLE_ANSWER),
        ((503, {"cause": "a cause of a newer version"}), None, Unavailable.INCOMPATIBLE_ANSWER),
        ((503, {"cause": "recovering"}), None, Unavailable.RECOVERING),
        ((200, {"id": None, "stale_seconds": 1}), None, Unavailable.STALE_COPY),
        ((503, {"cause": "recovering"}), Unavailable.LEASE_EXPIRED, Unavailable.LEASE_EXPIRED),
    ],
)
async def test_who_cannot_answer_says_why(
    owner: Answer, why_not: Unavailable | None, cause: Unavailable
) -> None:
    with pytest.raises(NotReadyError) as told:
        await find(Group({"b": owner, "c": DEAD}, owners="b", why_not=why_not))
    assert told.value.cause is cause


async def test_without_an_owner_the_cause_is_a_rebalance() -> None:
    with pytest.raises(NotReadyError) as told:
        await find(Group({}))
    assert told.value.cause is Unavailable.REBALANCING


async def test_after_a_write_no_copy_counts() -> None:
    with pytest.raises(NotReadyError):
        await find(Group({"b": copy(1)}, owners="b", stale=1), "ada", copies=False)
    group = Group({"b": DEAD, "c": FRESH}, owners="b", stale=1)
    assert await find(group, "ada", copies=False) == Found("ada")


async def test_that_a_write_is_not_settled_is_an_answer() -> None:
    with pytest.raises(NotSettledError):
        await find(Group({"b": (503, {"type": "not-settled"})}, owners="b"), copies=False)


async def test_that_there_is_no_such_write_is_an_answer() -> None:
    with pytest.raises(InvalidPositionError):
        await find(Group({"b": (400, {"type": "invalid-position"})}, owners="b"), copies=False)


async def test_what_was_forwarded_is_not_forwarded_again() -> None:
    group = Group({"b": FRESH}, owners="b", stale=2)
    assert await find(group, "ada", forwarded=True) == Found("ada", 2)
    with pytest.raises(NotReadyError):
        await find(group, None, forwarded=True)
    group.stale = None
    with pytest.raises(NotReadyError):
        await find(group, "ada", forwarded=True)
    assert not group.asked
