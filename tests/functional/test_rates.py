"""Rates of reads, and what clients are told of how they stand: in both lanes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from app.web.fast_lane import Runner
from tests.functional.test_fast_lane import Place, answer_to, lookup, request, serving

RUNNERS: list[type[web.AppRunner]] = [Runner, web.AppRunner]


@pytest.fixture(params=RUNNERS, ids=["fast", "slow"])
async def place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    """Serve clients that may write 50 and read 10 in a second, which never ends."""
    asked: Any = {"client_writes_per_second": 50, "client_reads_per_second": 10}
    async with serving(request.param, monkeypatch, clock=lambda: 1_000.0, **asked) as serves:
        yield serves


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def reads_left(place: Place, sent: bytes) -> int:
    """Return how many reads are left after a request, by the answer."""
    _, headers, _ = await answer_to(place, sent)
    assert headers["RateLimit-Policy"] == '"writes";q=50;w=1, "reads";q=10;w=1'
    return int(headers["RateLimit"].split('"reads";r=')[1].split(";")[0])


async def test_a_client_that_reads_too_much_is_told_when_to_come_again(place: Place) -> None:
    told = [await answer_to(place, lookup("here-1.~_")) for _ in range(40)]
    statuses = [status.split()[1] for status, _, _ in told]
    assert 10 <= statuses.count(b"200") < 40
    assert set(statuses) == {b"200", b"429"}
    _, headers, body = next(each for each in told if each[0].split()[1] == b"429")
    assert int(headers["Retry-After"]) >= 1
    assert b"this client has read more than it may" in body.lower()


async def test_a_list_counts_by_the_users_that_it_may_show(place: Place) -> None:
    assert await reads_left(place, get("/users?limit=500")) <= 6


async def test_the_calls_of_a_batch_count_each(place: Place) -> None:
    calls = ",".join(["userById"] * 6)
    assert await reads_left(place, get(f"/trpc/{calls}?batch=1")) <= 5


async def test_writes_leave_reads_alone_and_say_what_is_left(place: Place) -> None:
    status, headers, _ = await answer_to(place, request())
    assert status == b"HTTP/1.1 202 Accepted"
    writes = headers["RateLimit"].split('"writes";r=')[1]
    assert 40 <= int(writes.split(";")[0]) < 50
    assert '"reads";r=10;t=0' in headers["RateLimit"]


@pytest.mark.parametrize("path", ["/health/live", "/metrics"])
async def test_who_watches_is_not_counted(place: Place, path: str) -> None:
    assert await reads_left(place, get(path)) == 10


async def test_without_rates_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Runner, monkeypatch) as place:
        for sent in (lookup("here-1.~_"), get("/users"), request()):
            _, headers, _ = await answer_to(place, sent)
            assert not {"RateLimit", "RateLimit-Policy"} & headers.keys()
