"""The results for people: one set of tables, on the terminal and in ``results/README.md``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.engines import OURS
from bench.results import load

METHOD = """\
Made by `make bench`; the figures of every run are in the JSON files. Every engine is one process,
reads the same records from the same broker in the same run, parses and validates each, gets the row
of its id from RocksDB before it sets one, writes a changelog acknowledged by all in-sync replicas,
and commits its offsets. A record counts when its offset is committed, and a rate is the slope of
the line through an engine's commits: starting and joining do not count (`bench/commits.py`).
"ours / it" is how many times as fast this registry is. CPU is user and system time of the engine's
process a record, and the broker's beside it. Rates are medians, with the lowest and the highest
run; a slow engine is watched for a limited time, and its rate is that of this time.
"""

#: Works that are drawn.
PLOTS = ("apply", "recovery", "acknowledge")

ACKNOWLEDGE_METHOD = """\
Each server is one process, fresh for each interval, with a topic of 8 partitions and acks=all; the
peer is `bench/peers/trpc_kafkajs.mjs`. The client is `python -m app load` in a process of its own,
with the same bytes and the same numbers of connections to choose the best of. Latencies are at half
of the highest load, from when a request was due. CPU is the server's, at the highest load. This
registry also applies what it accepts meanwhile, in the same process, while the peer only produces\
"""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table: a title, headings (the first is of words, the others of figures), rows."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def write(folder: Path) -> None:
    """Write the page of all results that a folder holds."""
    parts = ["# Results", METHOD, *map(_markdown, _sheets(folder))]
    parts += [f"![{name}]({name}.svg)" for name in PLOTS if _has(folder, name)]
    (folder / "README.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")


def show(folder: Path, works: Sequence[str]) -> None:
    """Print the tables of some works."""
    console = Console(width=130)
    for sheet in _sheets(folder, works):
        table = Table(title=sheet.title, caption="\n".join(sheet.notes) or None)
        for index, heading in enumerate(sheet.headings):
            table.add_column(heading, justify="right" if index else "left")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)


def _has(folder: Path, name: str) -> bool:
    return (folder / f"{name}.svg").exists()


def _sheets(folder: Path, works: Sequence[str] = ()) -> Iterator[Sheet]:
    makers = {
        "apply": _apply,
        "flow": _flow,
        "latency": _latency,
        "recovery": _recovery,
        "memory": _memory,
        "acknowledge": _acknowledge,
        "lookups": _lookups,
    }
    for name, maker in makers.items():
        told = load(folder, name) if name in works or not works else None
        if told:
            yield from maker(told)


def _under(told: Mapping[str, Any]) -> str:
    return f"{told['machine']}; {told['runs']} runs, {told['date']}"


def _apply(told: Mapping[str, Any]) -> Iterator[Sheet]:
    headings = (
        "engine",
        "records/s",
        "lowest-highest",
        "ours / it",
        "CPU µs/record",
        "broker CPU µs",
    )
    for workload in told["workloads"].values():
        bars = workload["bars"]
        rows = [
            (*_rate(bar, _ours(bars)), *_figures(bar, "cpu_us", "broker_cpu_us")) for bar in bars
        ]
        title = f"Apply: {told['users']:,} records, {workload['label']}"
        yield Sheet(title, headings, rows, [_under(told), *_notes(bars), *_health(bars)])


def _flow(told: Mapping[str, Any]) -> Iterator[Sheet]:
    bars = told["bars"]
    base = bars[0].get("median")
    rows = [
        (
            bar["label"],
            *_spread(bar),
            f"{bar['median'] / base:.2f}" if base and "median" in bar else "-",
            *_figures(bar, "cpu_us", "broker_cpu_us"),
        )
        for bar in bars
    ]
    headings = ("work", "users/s", "lowest-highest", "share", "CPU µs/user", "broker CPU µs")
    title = f"The whole flow with emails: {told['users']:,} new users"
    yield Sheet(title, headings, rows, [_under(told), *_notes(bars)])


def _latency(told: Mapping[str, Any]) -> Iterator[Sheet]:
    figures = ("visible_p50_ms", "visible_p99_ms", "settled_p50_ms", "settled_p99_ms")
    rows = [(bar["label"], *_figures(bar, *figures), str(bar["stale"])) for bar in told["bars"]]
    headings = ("load", "visible p50 ms", "p99 ms", "settled p50 ms", "p99 ms", "stale answers")
    title = f"From acknowledged to readable on another worker, {told['rounds']:,} writes of each"
    yield Sheet(title, headings, rows, [_under(told)])


def _recovery(told: Mapping[str, Any]) -> Iterator[Sheet]:
    bars = told["bars"]
    rows = [(*_rate(bar, _ours(bars)), *_figures(bar, "cpu_us")) for bar in bars]
    headings = ("engine", "rows/s", "lowest-highest", "ours / it", "CPU µs/row")
    title = f"Recover a table of {told['users']:,} rows"
    yield Sheet(title, headings, rows, [_under(told), *_notes(bars)])


def _memory(told: Mapping[str, Any]) -> Iterator[Sheet]:
    bars = told["bars"]
    rows = [(bar["label"], *_spread(bar)) for bar in bars]
    title = f"Peak resident memory after applying {told['users']:,} new users"
    yield Sheet(title, ("engine", "MiB", "lowest-highest"), rows, [_under(told), *_notes(bars)])


def _acknowledge(told: Mapping[str, Any]) -> Iterator[Sheet]:
    works = told["works"].values()
    rows = [
        (
            f"{work['label']}: {bar['label']}",
            *_spread(bar),
            *_figures(bar, "p50_ms", "p99_ms", "cpu_us", "broker_cpu_us"),
        )
        for work in works
        for bar in work["bars"]
    ]
    headings = (
        "registrations acknowledged over HTTP",
        "per second",
        "lowest-highest",
        "p50 ms at half",
        "p99 ms",
        "CPU µs each",
        "broker CPU µs",
    )
    notes = [_under(told), *(note for work in works for note in _acknowledge_notes(work))]
    yield Sheet("Acknowledge", headings, rows, [*notes, ACKNOWLEDGE_METHOD])
    yield _ratios([work for work in works if len(work["bars"]) > 1])


def _lookups(told: Mapping[str, Any]) -> Iterator[Sheet]:
    bars = told["bars"]
    figures = ("p50_ms", "p99_ms", "cpu_us")
    rows = [(*_rate(bar, _ours(bars)), *_figures(bar, *figures)) for bar in bars]
    headings = (
        "users looked up over HTTP",
        "per second",
        "lowest-highest",
        "ours / it",
        "p50 ms",
        "p99 ms",
        "CPU µs each",
    )
    everywhere = told["through_all"]
    asked = (
        f"{everywhere['answers']:,} lookups by id and email through each of three workers: "
        f"{everywhere['wrong']} wrong"
    )
    wanted = "Wanted: 0.5 of the bare answer at least, 0.7 at best; forwarded p99 under 20 ms"
    title = f"Lookups among {told['users']:,} users"
    yield Sheet(title, headings, rows, [_under(told), *_notes(bars), asked, wanted])


def _ratios(works: Sequence[Mapping[str, Any]]) -> Sheet:
    headings = ("this registry, as a multiple of", "measured", "floor", "aim")
    return Sheet("Acknowledge, compared", headings, [_compared(work) for work in works])


def _compared(work: Mapping[str, Any]) -> Sequence[str]:
    ours, other = work["bars"]
    wanted = (work["floor"], work["aim"])
    return (
        f"{other['label']}, {work['label']}",
        _rate(other, ours.get("median"))[-1],
        *("-" if each is None else f"{each:g}" for each in wanted),
    )


def _acknowledge_notes(work: Mapping[str, Any]) -> Iterator[str]:
    for bar in work["bars"]:
        label = f"{work['label']}: {bar['label']}"
        if bar["note"]:
            yield f"{label}: {bar['note']}"
        intervals = [each for run in bar["runs"] for each in (*run["full"], run["half"])]
        if limited := sum(each["client_limited"] for each in intervals):
            yield f"{label}: in {limited} of {len(intervals)} intervals the client was the limit"
        if refused := sum(each["refused"] for each in intervals):
            yield f"{label}: {refused:,} registrations were refused or not answered"


def _ours(bars: Sequence[Mapping[str, Any]]) -> float | None:
    return next((bar.get("median") for bar in bars if bar["engine"] == OURS), None)


def _rate(bar: Mapping[str, Any], ours: float | None) -> Sequence[str]:
    ratio = f"{ours / bar['median']:.2f}" if ours and "median" in bar else "-"
    return (bar["label"], *_spread(bar), ratio)


def _spread(bar: Mapping[str, Any]) -> Sequence[str]:
    if "median" not in bar:
        return ("-", "-")
    return (f"{bar['median']:,.0f}", f"{bar['min']:,.0f}-{bar['max']:,.0f}")


def _figures(bar: Mapping[str, Any], *names: str) -> Sequence[str]:
    return tuple(f"{bar[name]:.1f}" if name in bar else "-" for name in names)


def _notes(bars: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    return [f"{bar['label']}: {bar['note']}" for bar in bars if bar["note"]]


def _health(bars: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Return what our worker's web side did meanwhile, of the run that was worst."""
    found = [
        run["health"]
        for bar in bars
        if bar["engine"] == OURS
        for run in bar["runs"]
        if run["health"]
    ]
    if not found:
        return []
    worst = max(found, key=lambda health: float(health["max_ms"]))
    return [
        "GET /health/live of this registry meanwhile, worst run: "
        f"p50 {worst['p50_ms']:.1f} ms, p99 {worst['p99_ms']:.1f} ms, max {worst['max_ms']:.1f} ms"
    ]


def _markdown(sheet: Sheet) -> str:
    aligned = [":--", *("--:" for _ in sheet.headings[1:])]
    lines = [_line(sheet.headings), _line(aligned), *map(_line, sheet.rows)]
    notes = "".join(f"\n\n{note}." for note in sheet.notes)
    return f"## {sheet.title}\n\n" + "\n".join(lines) + notes


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
