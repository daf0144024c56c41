"""What the bench tells of acknowledgements."""

from pathlib import Path

import orjson

from bench import report, results
from bench.acknowledge import CONTENDERS, Acknowledged, Interval, by_work
from bench.results import Bar
from bench.servers import LIBRDKAFKA_PEER, NODE_PEER, OUR_WORKER, SERVERS, TUNED_NODE_PEER


def interval(per_second: float, *, limited: bool = False, refused: int = 0) -> Interval:
    """Return an interval in which so much was acknowledged."""
    return Interval(64, per_second, 3.0, 9.0, 50.0, 5.0, refused, limited)


def run(per_second: float, half: Interval) -> Acknowledged:
    """Return a run with this highest load."""
    return Acknowledged([interval(per_second / 2), interval(per_second)], half)


def page(folder: Path, bars: list[Bar]) -> str:
    """Return the page of results that hold these bars."""
    results.save(folder, "acknowledge", {"runs": 3, "works": by_work(CONTENDERS, bars)})
    report.write(folder)
    return (folder / "README.md").read_text()


def bars(ours: Acknowledged, others: Acknowledged) -> list[Bar]:
    """Return a bar with three runs for each contender."""
    return [
        Bar(each.name, each.label, [ours if each.server is OUR_WORKER else others] * 3)
        for each in CONTENDERS
    ]


def test_ratios_to_the_peer_stand_beside_floor_and_aim(tmp_path: Path) -> None:
    text = page(tmp_path, bars(run(9_000, interval(4_500)), run(2_000, interval(1_000))))
    assert f"| {NODE_PEER.label}, tRPC, one a request | 4.50 | 10 | 12 |" in text
    assert f"| {TUNED_NODE_PEER.label}, tRPC, one a request | 4.50 | 3.2 | 4 |" in text
    assert f"| {NODE_PEER.label}, tRPC, batches of 100 | 4.50 | 10 | 20 |" in text
    assert f"| {TUNED_NODE_PEER.label}, tRPC, batches of 100 | 4.50 | 4 | 6 |" in text
    assert f"| {LIBRDKAFKA_PEER.label}, tRPC, one a request | 4.50 | - | - |" in text
    assert "| bare aiohttp answer, REST, one a request | 4.50 | - | - |" in text


def test_intervals_that_the_client_limited_and_refusals_are_told(tmp_path: Path) -> None:
    half = interval(1_000, limited=True, refused=7)
    text = page(tmp_path, bars(run(9_000, half), run(2_000, interval(1_000))))
    ours = "tRPC, one a request: this registry"
    assert f"{ours}: in 3 of 9 intervals the client was the limit" in text
    assert f"{ours}: 21 registrations were refused or not answered" in text
    assert f"{NODE_PEER.label}: in" not in text


def test_a_peer_that_cannot_run_has_no_ratio(tmp_path: Path) -> None:
    without = [
        Bar(each.name, each.label, note="skipped: its npm packages cannot be had")
        if each.server is NODE_PEER
        else Bar(each.name, each.label, [run(9_000, interval(4_500))])
        for each in CONTENDERS
    ]
    text = page(tmp_path, without)
    assert f"| {NODE_PEER.label}, tRPC, one a request | - | 10 | 12 |" in text
    assert f"{NODE_PEER.label}: skipped: its npm packages cannot be had." in text


def test_each_server_is_told_of_with_its_settings(tmp_path: Path) -> None:
    text = page(tmp_path, bars(run(9_000, interval(4_500)), run(2_000, interval(1_000))))
    for each in SERVERS.values():
        assert each.settings
        assert f"| {each.label} | {each.settings} |" in text
    for label in (NODE_PEER.label, TUNED_NODE_PEER.label):
        assert label.endswith(("as its docs advise", "tuned by hand"))


def test_the_bars_of_a_work_are_ours_and_the_others(tmp_path: Path) -> None:
    page(tmp_path, bars(run(9_000, interval(4_500)), run(2_000, interval(1_000))))
    works = orjson.loads((tmp_path / "acknowledge.json").read_bytes())["works"]
    assert [bar["engine"] for bar in works["trpc"]["bars"]] == [
        *("ours", "node", "node-tuned", "node-librdkafka"),
    ]
    assert [bar["median"] for bar in works["trpc-100"]["bars"]] == [9_000, *[2_000] * 3]
