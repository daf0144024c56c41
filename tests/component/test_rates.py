"""Rates of reads, and what clients are told of how they stand: in both lanes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from app.access.files import read_keys, write_keys
from app.access.keys import new_key
from app.access.scopes import Scope
from app.web.fast_lane import Runner
from tests.component.access import SECRET
from tests.component.test_fast_lane import (
    ADA,
    Place,
    answer,
    answer_to,
    connected,
    lookup,
    request,
    serving,
)

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


def keyed(path: Path, name: str, **rates: float) -> str:
    """Return a new key that may read and write, kept in a file."""
    text, key = new_key(name, frozenset({Scope.READ, Scope.WRITE}), None, **rates)
    write_keys(path, (*read_keys(path), key))
    return f"Bearer {text}"


@pytest.mark.parametrize("runner", RUNNERS, ids=["fast", "slow"])
async def test_a_key_may_have_a_rate_of_reads_of_its_own(
    runner: type[web.AppRunner], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    slow, other = keyed(path, "slow", reads_per_second=3), keyed(path, "other")
    asked: Any = {"keys_file": path, "email_secret": SECRET}
    async with serving(runner, monkeypatch, clock=lambda: 1_000.0, **asked) as place:
        told = [await answer_to(place, lookup("here-1.~_", Authorization=slow)) for _ in range(6)]
        statuses = [status.split()[1] for status, _, _ in told]
        assert statuses.count(b"429") >= 2
        assert statuses[:3] == [b"200"] * 3
        assert told[0][1]["RateLimit-Policy"] == '"reads";q=3;w=1'
        assert told[0][1]["RateLimit"].startswith('"reads";r=')
        # Neither its writes nor another key's reads count.
        assert (await answer_to(place, request(Authorization=slow)))[0].endswith(b"202 Accepted")
        _, headers, _ = await answer_to(place, lookup("here-1.~_", Authorization=other))
        assert "RateLimit" not in headers


@pytest.mark.parametrize("runner", RUNNERS, ids=["fast", "slow"])
async def test_keys_that_take_turns_on_a_connection_have_each_their_own(
    runner: type[web.AppRunner], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    keys = [keyed(path, "one", reads_per_second=3), keyed(path, "two", writes_per_second=5)]
    asked: Any = {"keys_file": path, "email_secret": SECRET}
    async with serving(runner, monkeypatch, **asked) as place, connected(place) as streams:
        reader, writer = streams
        policies = []
        for key in keys * 2:
            writer.write(lookup("here-1.~_", Authorization=key))
            policies.append((await answer(reader))[1]["RateLimit-Policy"])
    assert policies == ['"reads";q=3;w=1', '"writes";q=5;w=1'] * 2


@pytest.mark.parametrize("runner", RUNNERS, ids=["fast", "slow"])
async def test_records_say_with_which_key_they_were_written(
    runner: type[web.AppRunner], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    keys = {name: keyed(path, name) for name in ("one", "two")}
    asked: Any = {"keys_file": path, "email_secret": SECRET}
    async with serving(runner, monkeypatch, **asked) as place, connected(place) as streams:
        reader, writer = streams
        for name in ("one", "two", "one"):
            for sent in (
                request(Authorization=keys[name]),
                request(path="/users/batch", body=b"[%b]" % ADA, Authorization=keys[name]),
            ):
                writer.write(sent)
                assert (await answer(reader))[0].endswith(b"202 Accepted")
    written = [headers for asked in place.producer.asked for [(*_, headers)] in asked.values()]
    assert written == [[("by", b"one")]] * 2 + [[("by", b"two")]] * 2 + [[("by", b"one")]] * 2


async def test_without_keys_records_have_no_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Runner, monkeypatch) as place:
        await answer_to(place, request())
        assert place.is_fast
    assert [headers for asked in place.producer.asked for [(*_, headers)] in asked.values()] == [[]]
