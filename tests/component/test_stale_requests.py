"""Writes that may have waited for too long before they were read are refused, whatever they are."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.ingest import standstills
from app.ingest.standstills import LOOKS_TO_CATCH_UP, Standstills
from app.web.fast_lane import FastLane, Runner
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

LIMIT = 1.0
LINES = "application/x-ndjson"
CALL = b'{"0":' + ADA + b"}"
WAYS = {
    "REST": request(),
    "REST, settled": request(Prefer="wait=1"),
    "tRPC": request(path="/trpc/registerUser"),
    "tRPC in a batch": request(CALL, path="/trpc/registerUser?batch=1"),
    "array": request(b"[" + ADA + b"]", path="/users/batch"),
    "lines": request(ADA + b"\n", path="/users/batch", Content_Type=LINES),
    "update": request(b'{"name":"Ada"}', path="/users/ada", method="PATCH"),
    "erasure": request(b"", path="/users/ada", method="DELETE", Content_Type=""),
}
every_way = pytest.mark.parametrize("sent", WAYS.values(), ids=WAYS)


class Time:
    """A clock that a test moves, and what looks at it."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.standstills = Standstills(LIMIT)

    def now(self) -> float:
        return self.at

    def stand_still(self) -> None:
        self.at += 2 * LIMIT

    def go_by(self, seconds: float) -> None:
        """Let time go by while the loop runs."""
        for _ in range(round(seconds / 0.1)):
            self.at += 0.1
            self.standstills.catch_up()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(standstills, "now", made.now)
    made.standstills.look()
    return made


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch, clock: Time) -> AsyncIterator[Place]:
    """Serve as a worker does."""
    monkeypatch.setattr(clock.standstills, "_looked_at", clock.at)
    async with serving(Runner, monkeypatch, clock.standstills) as made:
        yield made


def is_refused(told: tuple[bytes, dict[str, str], bytes]) -> bool:
    status, headers, body = told
    return b" 503 " in status and headers["Retry-After"] == "1" and b"stale-request" in body


@every_way
async def test_after_a_standstill_a_write_is_refused_until_all_that_waited_is_read(
    place: Place, clock: Time, sent: bytes
) -> None:
    clock.stand_still()
    assert is_refused(await answer_to(place, sent))
    assert not place.producer.sent
    clock.go_by(0.1 * LOOKS_TO_CATCH_UP)
    assert b" 20" in (await answer_to(place, sent))[0]
    assert len(place.producer.sent) == 1


@every_way
async def test_a_standstill_between_the_parts_of_a_write_counts(
    place: Place, clock: Time, sent: bytes
) -> None:
    async with connected(place) as (reader, writer):
        writer.write(sent[:-2])
        await asyncio.sleep(0.05)
        clock.stand_still()
        writer.write(sent[-2:])
        assert is_refused(await answer(reader))
    assert not place.producer.sent


async def test_a_lookup_is_answered_all_the_same(place: Place, clock: Time) -> None:
    clock.stand_still()
    assert b" 200 " in (await answer_to(place, lookup("here-1.~_")))[0]


@every_way
async def test_a_write_that_comes_slowly_is_taken(place: Place, clock: Time, sent: bytes) -> None:
    async with connected(place) as (reader, writer):
        writer.write(sent[:-2])
        await asyncio.sleep(0.05)
        clock.go_by(3 * LIMIT)
        writer.write(sent[-2:])
        assert b" 20" in (await answer(reader))[0]


@every_way
@pytest.mark.parametrize("first", [WAYS["REST"], request(User_Agent="x", Via="y")])
async def test_what_waits_for_too_long_behind_another_request_is_refused(
    place: Place, clock: Time, first: bytes, sent: bytes
) -> None:
    place.producer.silent = True
    async with connected(place) as (reader, writer):
        writer.write(first)
        while not place.producer.asked:
            await asyncio.sleep(0)
        writer.write(sent)
        await asyncio.sleep(0.05)
        clock.go_by(1.5 * LIMIT)
        place.producer.silent = False
        place.producer.give_up()
        assert b"outcome-unknown" in (await answer(reader))[2]
        assert is_refused(await answer(reader))
    assert not place.producer.sent


async def test_a_long_stream_does_not_make_the_next_request_old(
    place: Place, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is paused while the server cannot keep up."""
    users = b"".join(ADA.replace(b"ada", b"ada-%d" % n) + b"\n" for n in range(60_000))
    paused = asyncio.Event()
    pause = FastLane._pause_transport_reading

    def note(lane: FastLane) -> None:
        pause(lane)
        paused.set()

    monkeypatch.setattr(FastLane, "_pause_transport_reading", note)
    async with connected(place) as (reader, writer):
        place.producer.silent = True
        writer.write(request(users, path="/users/batch", Content_Type=LINES))
        await paused.wait()
        clock.go_by(1.5 * LIMIT)
        place.producer.silent = False
        place.producer.acknowledge()
        assert b" 202 " in (await answer(reader))[0]
        writer.write(WAYS["REST, settled"])
        assert b" 202 " in (await answer(reader))[0]
