"""What the bench tells of steady rates, and of outcomes beside Kafka Streams."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from bench import live, live_client, outcomes, report, results
from bench.errors import PeerFailed
from bench.flow_engines import FLOWS, OUR_FLOW
from bench.live import AtRate, Step, Sustained, step_of
from bench.results import Bar


def at_rate(per_second: int, *, settled_p50_ms: float = 50.0, **change: Any) -> AtRate:
    """Return what was measured at a rate."""
    told: dict[str, Any] = {
        "worker_cpu_percent": 30.0,
        "broker_cpu_percent": 20.0,
        "client_cpu_percent": 5.0,
        "ack_p50_ms": 4.0,
        "ack_p99_ms": 18.0,
        "settled_p99_ms": 120.0,
        "sent": per_second * 10,
        "followed": 100,
        "refused": 0,
        "unanswered": 0,
        "unsettled": 0,
        "late_p99_ms": 1.0,
        "began": 0.0,
    }
    return AtRate(per_second=per_second, settled_p50_ms=settled_p50_ms, **(told | change))


def page(folder: Path, runs: int, sustained: Bar, **change: Any) -> str:
    """Return the page of results that hold so many runs."""
    steady = [[at_rate(rate.per_second, **change) for rate in live.RATES] for _ in range(runs)]
    told = live.as_json(steady, sustained, [])
    results.save(folder, "live", {"runs": runs, "seconds": 10.0, "lag_seconds": 60.0, **told})
    report.write(folder)
    return (folder / "README.md").read_text()


def highest(*rates: int, last_holds: bool = True) -> Bar:
    """Return the bar of one run of steps."""
    steps = [Step(at_rate(rate), 10, 10) for rate in rates]
    if not last_holds:
        steps[-1] = Step(steps[-1].at, 10, 1_000_000)
    return Bar("ours", "no lag grows", [Sustained(steps)])


def test_floors_and_aims_stand_beside_the_figures(tmp_path: Path) -> None:
    text = page(tmp_path, 3, highest(4_000, 5_000, 6_000))
    assert "| 100 a second: settled p50 ms | 50.0 | 40 | 25 | no |" in text
    assert "| 1,000 a second: settled p50 ms | 50.0 | 70 | 45 | floor |" in text
    assert "| 3,000 a second: settled p50 ms | 50.0 | 100 | 60 | aim |" in text
    assert "| 1,000 a second: worker's CPU, % of a core | 30.0 | 60 | 40 | aim |" in text
    assert "lag does not grow for 60 s | 6,000 | 6,000 | 10,000 | floor |" in text


def test_a_rate_that_the_contract_does_not_name_is_only_measured(tmp_path: Path) -> None:
    text = page(tmp_path, 1, highest(4_000))
    assert "| 300 | 30.0 | 20.0 | 5.0 | 4.0 | 18.0 | 50.0 | 120.0 | 0 |" in text
    assert "300 a second:" not in text


def test_failures_of_all_runs_and_a_late_client_are_told(tmp_path: Path) -> None:
    text = page(tmp_path, 3, highest(4_000), refused=1, unsettled=1, late_p99_ms=31.0)
    assert "| 1,000 | 30.0 | 20.0 | 5.0 | 4.0 | 18.0 | 50.0 | 120.0 | 6 |" in text
    assert "At 3,000 a second the client was up to 31 ms late (p99): it was the limit." in text


def test_without_runs_nothing_is_measured(tmp_path: Path) -> None:
    text = page(tmp_path, 0, Bar("ours", "no lag grows", note="a run failed: it ended"))
    assert "| 1,000 a second: settled p50 ms | - | 70 | 45 | - |" in text
    assert "no lag grows: a run failed: it ended." in text


def test_the_highest_rate_is_the_last_that_holds() -> None:
    (run,) = highest(4_000, 5_000, 6_000, last_holds=False).runs
    assert run.per_second == 5_000
    (run,) = highest(4_000, last_holds=False).runs
    assert run.per_second == 0


@pytest.mark.parametrize(
    ("last", "change", "holds"),
    [
        (4_100, {}, True),
        (4_101, {}, False),
        (100, {"refused": 1}, False),
        (100, {"unsettled": 1}, False),
    ],
)
def test_lag_may_grow_by_a_seconds_worth(last: int, change: Mapping[str, int], holds: bool) -> None:
    assert Step(at_rate(4_000, **change), 100, last).holds is holds


def test_lag_is_compared_after_settling_and_at_the_end() -> None:
    lags = [(second + 0.5, 1_000 * second) for second in range(-3, 75)]
    step = step_of(at_rate(4_000), lags, 60.0)
    assert (step.lag_after_settling, step.lag_at_the_end) == (10_000, 60_000)


def test_a_worker_that_tells_no_lag_is_not_judged() -> None:
    with pytest.raises(PeerFailed, match="no lag"):
        step_of(at_rate(4_000), [], 60.0)


def test_lag_is_summed_over_topics_and_partitions() -> None:
    metrics = """\
# TYPE registry_lag_records gauge
registry_lag_records{partition="0",topic="user-registrations"} 7.0
registry_lag_records{partition="1",topic="email-claims"} 5.0
registry_lag_seconds{partition="0",topic="user-registrations"} 100.0
"""
    assert live.lag_in(metrics) == 12


def outcome(per_second: int, p50_ms: float) -> outcomes.AtRate:
    """Return what was measured of one engine."""
    return outcomes.AtRate(per_second, p50_ms, p50_ms * 3, 20.0, 30.0, 4.0, 1_000, 0)


def test_outcomes_of_kafka_streams_stand_beside_ours(tmp_path: Path) -> None:
    runs: dict[str, list[Any]] = {
        flow.name: [[outcome(rate, 20.0 if flow.is_ours else 50.0) for rate in outcomes.RATES]]
        for flow in FLOWS
    }
    runs["streams-10"] = []
    told = {"rates": outcomes.by_rate(runs), "notes": ["commits every 10 ms: skipped"]}
    results.save(tmp_path, "outcomes", {"runs": 1, "seconds": 10.0, **told})
    report.write(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| 100: this registry | 20.0 | 60.0 | 1.00 | 1.00 | 20.0 | 30.0 | 0 |" in text
    slower = "Kafka Streams, exactly once, commits every 100 ms"
    assert f"| 1,000: {slower} | 50.0 | 150.0 | 2.50 | 2.50 | 20.0 | 30.0 | 0 |" in text
    assert "commits every 10 ms | - | - | - | - | - | - | - |" in text
    assert "commits every 10 ms: skipped." in text


def test_users_per_core_stand_beside_those_of_kafka_streams(tmp_path: Path) -> None:
    bars = [
        {"engine": "apply", "label": "apply to users only", "note": "", "median": 80_000.0},
        {"engine": OUR_FLOW.name, "label": "this registry", "note": "", "median": 20_000.0},
        {"engine": "streams-100", "label": "Kafka Streams", "note": "", "median": 25_000.0},
    ]
    spread = {"min": 1.0, "max": 90_000.0, "cpu_us": 50.0, "broker_cpu_us": 10.0}
    bars = [bar | spread for bar in bars]
    bars[1]["per_core"], bars[2]["per_core"] = 20_000.0, 10_000.0
    results.save(tmp_path, "flow", {"runs": 1, "users": 100, "bars": bars})
    report.write(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| apply to users only | 80,000 | 1-90,000 | 1.00 | 50.0 | 10.0 | - | - |" in text
    assert "| this registry | 20,000 | 1-90,000 | 0.25 | 50.0 | 10.0 | 20,000 | 1.00 |" in text
    assert "| Kafka Streams | 25,000 | 1-90,000 | 0.31 | 50.0 | 10.0 | 10,000 | 2.00 |" in text


class FakeRegistry:
    """Refuses every third POST; a user is settled when it is asked for again."""

    def __init__(self) -> None:
        self.posts = 0
        self.asked: dict[str, int] = {}
        self.clients: dict[str, set[object]] = {"POST": set(), "GET": set()}

    async def post(self, request: web.Request) -> web.Response:
        """Take a registration."""
        self.clients["POST"].add(request.transport)
        self.posts += 1
        if self.posts % 3 == 0:
            return web.Response(status=503)
        return web.json_response({"position": (await request.json())["id"]}, status=202)

    async def get(self, request: web.Request) -> web.Response:
        """Look a user up."""
        self.clients["GET"].add(request.transport)
        user_id = request.match_info["id"]
        assert request.query["after"] == user_id
        self.asked[user_id] = self.asked.get(user_id, 0) + 1
        settled = self.asked[user_id] > 1
        return web.json_response({"status": "registered" if settled else "pending"})


@asynccontextmanager
async def serving(registry: FakeRegistry) -> AsyncIterator[int]:
    """Serve at a port for the length of a block."""
    app = web.Application()
    app.add_routes([web.post("/users", registry.post), web.get("/users/{id}", registry.get)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_the_client_counts_what_was_due_in_the_window() -> None:
    registry = FakeRegistry()
    async with serving(registry) as port:
        task = live_client.Task(port, 300.0, 0.1, 0.4, "live", probes_per_second=50)
        told = await live_client.Client(task).run()
    assert registry.posts == 150
    assert told["sent"] == 120
    assert told["refused"] == {"503": 40}
    assert told["acknowledged"] == 80
    assert told["unanswered"] == told["unsettled"] == 0
    assert told["followed"] == len(registry.asked) > 0
    assert set(registry.asked.values()) == {2}
    assert told["settled_p50_ms"] > live_client.PROBE_RETRY_SECONDS * 1000
    assert 0.2 < told["ended"] - told["began"] < 5
    assert not registry.clients["POST"] & registry.clients["GET"]
    orjson.dumps(told)


async def test_latency_counts_from_when_a_post_was_due() -> None:
    class Stalled(FakeRegistry):
        async def post(self, request: web.Request) -> web.Response:
            if self.posts == 0:
                self.posts = 1
                await asyncio.sleep(0.3)
            return await super().post(request)

    async with serving(Stalled()) as port:
        task = live_client.Task(port, 50.0, 0.0, 0.4, "live", max_connections=1)
        told = await live_client.Client(task).run()
    # One connection: all that was due while it waited had to wait with it.
    assert told["ack_p50_ms"] > 50


async def test_a_server_that_is_gone_is_a_failure() -> None:
    async with serving(FakeRegistry()) as port:
        task = live_client.Task(port, 100.0, 0.0, 0.2, "live", patience_seconds=1)
        client = live_client.Client(task)
        await client._posts.open(1)
    told = await client.run()
    assert told["acknowledged"] == 0
    assert told["refused"] == {"0": 20}
