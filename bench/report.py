"""The results for people: one set of tables, on the terminal and in ``results/README.md``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.system.files import write_whole
from bench.engines import ENGINES, OURS, Engine
from bench.live import LATE_MS
from bench.results import load
from bench.servers import SERVERS, Server

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
PLOTS = ("apply", "live", "outcomes", "recovery", "acknowledge")

ACKNOWLEDGE_METHOD = """\
Each server is one process, fresh for each interval, with a topic of 8 partitions and acks=all; the
peers are in `bench/peers`. The client is `python -m app load` in a process of its own,
with the same bytes and the same numbers of connections to choose the best of. Latencies are at half
of the highest load, from when a request was due. CPU is the server's, at the highest load. This
registry also applies what it accepts meanwhile, in the same process, while the peers only produce.
Not among them: Karapace, which is not on PyPI, and @confluentinc/kafka-javascript and node-rdkafka,
of which npm has no binary, only a download from elsewhere or a build from source\
"""

FLOW_METHOD = """\
"share" is the part of what the same worker applies without emails. Kafka Streams does the same
three hops with 2 threads (`bench/peers/KafkaStreamsFlow.java`). A user is three committed records:
a registration, a claim, a decision. Short runs are unjust to Java, which still compiles. Wanted:
25,000 users/s and 0.3 of apply at least, 34,000 and 0.5 at best; users/s per core 0.5 of Kafka
Streams at least, 1 at best\
"""

#: The figures of a rate, in the order of the columns.
LIVE_WORDS = {
    "worker_cpu_percent": "worker's CPU, % of a core",
    "broker_cpu_percent": "broker's CPU, % of a core",
    "client_cpu_percent": "client's CPU, % of a core",
    "ack_p50_ms": "ack p50 ms",
    "ack_p99_ms": "ack p99 ms",
    "settled_p50_ms": "settled p50 ms",
    "settled_p99_ms": "settled p99 ms",
}

LIVE_METHOD = """\
One worker, one broker with default settings. The client sends single `POST /users` by a schedule,
whether or not earlier ones were answered (`bench/live_client.py`). Times count from when a POST was
due. Up to 10 writes a second are followed with `GET /users/{id}?after=<position>` until the answer
is the settled user. CPU is that of the measured time, after 2 s that do not count. Lag does not
grow if in the last twelfth of the time it is at most a second's worth of records above what it was
after the first sixth, and nothing failed\
"""

OUTCOMES_METHOD = """\
One client produces registrations (acks=all) by a schedule, and reads committed outcomes
(`bench/outcome_client.py`). Times count from when a registration was due. Kafka Streams does the
same three hops, exactly once, with 2 threads. Wanted: ours is faster than both at each rate\
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
    write_whole(folder / "README.md", "\n\n".join(part.strip() for part in parts) + "\n")


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
        "live": _live,
        "outcomes": _outcomes,
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
    every = [bar for workload in told["workloads"].values() for bar in workload["bars"]]
    yield _settings("Apply: how each engine is set", ENGINES, every)


def _flow(told: Mapping[str, Any]) -> Iterator[Sheet]:
    bars = told["bars"]
    base, ours = bars[0].get("median"), bars[1].get("per_core")
    rows = [
        (
            bar["label"],
            *_spread(bar),
            f"{bar['median'] / base:.2f}" if base and "median" in bar else "-",
            *_figures(bar, "cpu_us", "broker_cpu_us"),
            f"{bar['per_core']:,.0f}" if "per_core" in bar else "-",
            f"{ours / bar['per_core']:.2f}" if ours and "per_core" in bar else "-",
        )
        for bar in bars
    ]
    headings = (
        "work",
        "users/s",
        "lowest-highest",
        "share",
        "CPU µs/user",
        "broker CPU µs",
        "users/s per core",
        "ours / it, per core",
    )
    title = f"The whole flow with emails: {told['users']:,} new users"
    yield Sheet(title, headings, rows, [_under(told), *_notes(bars), FLOW_METHOD])


def _live(told: Mapping[str, Any]) -> Iterator[Sheet]:
    headings = (
        "registrations a second",
        "worker CPU %",
        "broker CPU %",
        "client CPU %",
        "ack p50 ms",
        "ack p99 ms",
        "settled p50 ms",
        "settled p99 ms",
        "failures",
    )
    rows = [
        (f"{rate['per_second']:,}", *_medians(rate, *LIVE_WORDS), _count(rate, "failures"))
        for rate in told["rates"]
    ]
    late = [
        f"At {rate['per_second']:,} a second the client was up to "
        f"{rate['late_p99_ms']['median']:.0f} ms late (p99): it was the limit"
        for rate in told["rates"]
        if "late_p99_ms" in rate and rate["late_p99_ms"]["median"] > LATE_MS
    ]
    each = f"{told['seconds']:g} s of each rate"
    yield Sheet("Live", headings, rows, [f"{_under(told)}; {each}", *told["notes"], *late])
    yield _live_compared(told)


def _live_compared(told: Mapping[str, Any]) -> Sheet:
    rows = [
        (
            f"{rate['per_second']:,} a second: {LIVE_WORDS[name]}",
            *_wanted(rate.get(name, {}).get("median"), wanted),
        )
        for rate in told["rates"]
        for name, wanted in rate["wanted"].items()
    ]
    highest = told["sustained"]
    median, wanted = highest.get("median"), highest["wanted"]
    label = f"the highest rate at which lag does not grow for {told['lag_seconds']:g} s"
    rows.append((label, *_wanted(median, wanted, at_least=True)))
    notes = [*_notes([highest]), LIVE_METHOD]
    return Sheet("Live, compared", ("figure", "measured", "floor", "aim", "reached"), rows, notes)


def _wanted(
    measured: float | None, wanted: Mapping[str, float], *, at_least: bool = False
) -> Sequence[str]:
    """Return a figure beside what is wanted of it: at most so much, or at least so much."""
    cells = [f"{wanted[name]:,g}" for name in ("floor", "aim")]
    if measured is None:
        return ("-", *cells, "-")
    sign = -1 if at_least else 1
    reached = [name for name in ("aim", "floor") if sign * measured <= sign * wanted[name]]
    shown = f"{measured:,.0f}" if at_least else f"{measured:.1f}"
    return (shown, *cells, reached[0] if reached else "no")


def _outcomes(told: Mapping[str, Any]) -> Iterator[Sheet]:
    headings = (
        "registrations a second, engine",
        "p50 ms",
        "p99 ms",
        "its p50 / ours",
        "its p99 / ours",
        "engine CPU %",
        "broker CPU %",
        "failures",
    )
    figures = ("p50_ms", "p99_ms")
    rows = [
        (
            f"{rate['per_second']:,}: {bar['label']}",
            *_medians(bar, *figures),
            *(_slower(name, bar, rate["bars"]) for name in figures),
            *_medians(bar, "engine_cpu_percent", "broker_cpu_percent"),
            _count(bar, "failures"),
        )
        for rate in told["rates"]
        for bar in rate["bars"]
    ]
    notes = [f"{_under(told)}; {told['seconds']:g} s of each rate", *told["notes"], OUTCOMES_METHOD]
    yield Sheet("From produced to outcome", headings, rows, notes)


def _slower(name: str, bar: Mapping[str, Any], bars: Sequence[Mapping[str, Any]]) -> str:
    ours = next((each.get(name) for each in bars if each["engine"] == OURS), None)
    return f"{bar[name]['median'] / ours['median']:.2f}" if ours and name in bar else "-"


def _medians(told: Mapping[str, Any], *names: str) -> Sequence[str]:
    return tuple(f"{told[name]['median']:.1f}" if name in told else "-" for name in names)


def _count(told: Mapping[str, Any], name: str) -> str:
    return f"{told[name]:,}" if name in told else "-"


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
    every = [bar for work in works for bar in work["bars"]]
    yield _settings("Acknowledge: how each server is set", SERVERS, every)


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
    rows = [
        _compared(work["label"], bar, _ours(work["bars"]))
        for work in works
        for bar in work["bars"]
        if bar["engine"] != OURS
    ]
    return Sheet("Acknowledge, compared", headings, rows)


def _compared(label: str, other: Mapping[str, Any], ours: float | None) -> Sequence[str]:
    wanted = (other["floor"], other["aim"])
    return (
        f"{other['label']}, {label}",
        _rate(other, ours)[-1],
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


def _settings(
    title: str,
    known: Mapping[str, Server] | Mapping[str, Engine],
    bars: Sequence[Mapping[str, Any]],
) -> Sheet:
    named = [known[name] for name in dict.fromkeys(bar["engine"] for bar in bars) if name in known]
    return Sheet(title, ("what", "settings"), [(each.label, each.settings) for each in named])


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
