"""How `load` tells of a run."""

from datetime import UTC, datetime
from io import StringIO

from rich.console import Console
from rich.progress import Progress, TextColumn

from tools.load.modes import Verdict
from tools.load.options import Options
from tools.load.printing import Bar, bar, print_report
from tools.load.report import Snapshot, report
from tools.load.tally import Tally


def test_a_report_is_printed_as_tables() -> None:
    tally = Tally()
    tally.begin(0, 0, 2)
    tally.count(Verdict([0], 0, {429: 1}), "1", 0.001, 1.5)
    tally.errors["time-out"] = 3
    options = Options(url="http://a", mode="trpc", batch=2, rate=1000, retry=1)
    told = report(options, tally, datetime.now(UTC), interrupted=True)
    printed = StringIO()
    print_report(told, printed)
    assert "trpc of 2, 1,000/s, 64 connections, interrupted" in printed.getvalue()
    words = printed.getvalue().replace("│", " ").split()
    text = " ".join(words)
    assert "refused with 429, requests 1 of these with Retry-After 1" in text
    assert "error: time-out 3 retries 0" in text
    assert "response time 1,500.0 1,500.0" in text
    assert "service time 1.0 1.0" in text


def test_a_bar_tells_rate_latencies_and_errors() -> None:
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, width=200)
    with Progress(
        TextColumn("{task.description}"), console=console, auto_refresh=False
    ) as progress:
        showing = Bar(progress)
        showing.show(Snapshot(0, 5, 1.0, None, None, 0, 0))
        showing.show(Snapshot(0.5, 5000, 1234.5, 1.25, None, 7, 2))
    assert "warming up" in shown.getvalue()
    assert "1,234/s  p50 1.2 ms  p99 -  refused 7  errors 2" in shown.getvalue()


def test_there_is_no_bar_without_a_terminal() -> None:
    with bar() as shown:
        assert shown is None
