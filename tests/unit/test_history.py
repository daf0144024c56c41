"""The last two minutes: what each second brought, at each worker and over all of them."""

import asyncio
from typing import Any, cast

import pytest
from pydantic import ValidationError

from app.domain.errors import NotReadyError, Unavailable
from app.query.overview import history
from app.query.overview.collecting import HISTORY_PATH, Collecting
from app.query.overview.history import KEPT_SECONDS, History, decode, ticks
from app.query.overview.numbers import Counters
from app.telemetry.metrics import ACKNOWLEDGEMENT_SECONDS, OUTCOMES, WRITES


def second(writes: float, **more: Any) -> Counters:
    """Return what a worker did in a second."""
    told = {"writes": {"acknowledged": writes}, "outcomes": {}, "acknowledgements": {}}
    return Counters.model_validate(told | more)


async def test_each_second_has_what_grew_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SAMPLE_SECONDS", 0.01)
    monkeypatch.setattr(history, "monotonic", iter(range(10_000)).__next__)
    kept = History()
    async with kept:
        async with asyncio.timeout(30):
            while len(kept.seconds) < 2:
                await asyncio.sleep(0)
            WRITES.labels("acknowledged").inc(5)
            OUTCOMES.labels("id-taken").inc(3)
            ACKNOWLEDGEMENT_SECONDS.observe(0.004)
            while not kept.seconds[-1].writes:
                await asyncio.sleep(0)
            grown = kept.seconds[-1]
            while kept.seconds[-1].writes:
                await asyncio.sleep(0)
    assert (grown.writes["acknowledged"], grown.outcomes["id-taken"]) == (5.0, 3.0)
    assert grown.acknowledgements["+Inf"] == 1.0
    assert kept.seconds[0] == Counters(writes={}, outcomes={}, acknowledgements={})
    assert list(decode(kept.encode())) == list(kept.seconds)


def test_all_workers_are_summed_second_by_second_from_the_newest_on() -> None:
    told = list(ticks([[second(1), second(2), second(3)], [second(10)], []]))
    assert [tick["writes_per_second"]["acknowledged"] for tick in told] == [1.0, 2.0, 13.0]
    assert list(ticks([])) == []


def test_outcomes_and_latencies_are_told_as_in_the_overview() -> None:
    outcomes = {"id-taken": 2.0, "email-taken": 3.0, "registered": 1.0}
    (told,) = ticks([[second(1, outcomes=outcomes, acknowledgements={"0.01": 4, "+Inf": 4})]])
    assert told["outcomes_per_second"] == {"rejected": 5.0, "registered": 1.0}
    assert told["acknowledgement_ms"] == {"p50": 5.0, "p99": 9.9}


def test_of_another_worker_no_more_than_two_minutes_count() -> None:
    kept = History()
    for number in range(2 * KEPT_SECONDS):
        kept.seconds.append(second(number))
    body = kept.encode()
    assert len(decode(body)) == KEPT_SECONDS
    assert len(decode(body[:-1] + b"," + body[1:])) == KEPT_SECONDS
    with pytest.raises(ValidationError):
        decode(b'{"not": "seconds"}')


async def test_who_does_not_answer_is_left_out() -> None:
    class Routing:
        """Another worker that answers, one that does not, and one with something else."""

        def other_workers(self) -> set[str]:
            return {"http://a", "http://b", "http://c"}

        async def ask(self, url: str, path: str) -> tuple[int, bytes]:
            assert path == HISTORY_PATH
            if url == "http://b":
                raise NotReadyError(Unavailable.OWNER_UNREACHABLE)
            kept = History()
            kept.seconds.append(second(7))
            return 200, kept.encode() if url == "http://a" else b"{}"

    here = History()
    here.seconds.append(second(1))
    collecting = Collecting(cast(Any, Routing()), cast(Any, None), cast(Any, None), here)
    (told,) = await collecting.history()
    assert told["writes_per_second"] == {"acknowledged": 8.0}
